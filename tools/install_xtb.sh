#!/usr/bin/env bash
# Install the program xtb, which the referee of that name runs, where a package manager can.
# Without it, its tests skip; this script therefore never fails.
set -u
if command -v xtb >/dev/null; then
    xtb --version 2>/dev/null | grep -o 'xtb version [0-9.]*' || true
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update && apt-get install -y --no-install-recommends xtb; } >/dev/null 2>&1
else
    for conda in micromamba mamba conda; do
        if command -v "$conda" >/dev/null && [ -n "${CONDA_PREFIX:-}" ]; then
            "$conda" install -y -c conda-forge xtb >/dev/null 2>&1
            break
        fi
    done
fi
command -v xtb >/dev/null || echo "xtb could not be installed (needs root and apt-get, or an active conda environment); its tests skip"
exit 0
