#!/usr/bin/env python3
"""The command ``stodepth train``, for a checkout."""

from stodepth import main

if __name__ == "__main__":
    main("train")
