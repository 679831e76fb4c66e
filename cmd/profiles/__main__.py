"""Run the profiles service, or ``migrate`` its database."""

from libs.service import main_of
from profiles.app import service


def main() -> None:
    """Run the program."""
    main_of(service)


if __name__ == "__main__":
    main()
