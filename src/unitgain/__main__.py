"""`python -m unitgain`, and `torchrun -m unitgain`."""

from unitgain.cli.main import main

if __name__ == "__main__":
    main()
