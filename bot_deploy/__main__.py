"""`python -m bot_deploy` and the command `bot`."""


def main() -> None:
    """Runs `bot` and exits. Ctrl-C is handled before the command line is imported, which takes a while."""
    from bot_deploy import interrupts

    interrupts.handle_interrupts()

    from bot_deploy.cli import main as run

    run()


if __name__ == "__main__":
    main()
