"""`python -m pipeline VERB run.toml`: each step alone, without Prefect."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
