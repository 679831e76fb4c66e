"""Run the auth service, ``migrate`` its database, or ``rotate-keys``."""

from auth import rotation
from auth.app import service
from libs.service import main_of


def main() -> None:
    """Run the program."""
    main_of(service, {"rotate-keys": rotation.main})


if __name__ == "__main__":
    main()
