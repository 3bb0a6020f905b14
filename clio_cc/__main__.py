"""``python -m clio_cc`` is ``clio-cc``: for launchers such as torchrun, which start modules."""

from clio_cc.cli import main

if __name__ == "__main__":
    main()
