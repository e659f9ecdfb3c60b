"""``python -m stodepth_models`` is the command ``stodepth``."""

from stodepth import main

if __name__ == "__main__":
    main()
