#!/usr/bin/env bash
# Install pw.x of Quantum ESPRESSO, which the referee pw runs, where a package manager can.
# Without it, its tests skip; this script therefore never fails.
set -u
if command -v pw.x >/dev/null; then
    echo "pw.x is installed: $(command -v pw.x)"
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # The data holds the pseudopotentials of the tests.
    { apt-get update && apt-get install -y --no-install-recommends quantum-espresso quantum-espresso-data; } >/dev/null 2>&1
else
    for conda in micromamba mamba conda; do
        if command -v "$conda" >/dev/null && [ -n "${CONDA_PREFIX:-}" ]; then
            "$conda" install -y -c conda-forge qe >/dev/null 2>&1
            break
        fi
    done
fi
command -v pw.x >/dev/null || echo "pw.x could not be installed (needs root and apt-get, or an active conda environment); its tests skip"
exit 0
