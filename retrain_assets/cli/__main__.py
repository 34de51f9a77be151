"""`python -m retrain_assets.cli`. Not here: the commands."""

from retrain_assets.cli import main

main()
