"""`python -m bot_deploy` is `bot`."""

from bot_deploy.cli import main

main()
