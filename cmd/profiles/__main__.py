"""Run the profiles service, or ``migrate`` its database."""

from profiles.app import service
from libs.service import main_of


def main() -> None:
    """Run the program."""
    main_of(service)


if __name__ == "__main__":
    main()
