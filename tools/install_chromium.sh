#!/usr/bin/env bash
# Install Chromium, in which the report is tested, where a package manager can.
# Without it, those tests skip; this script therefore never fails.
set -u
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1
fi
command -v chromium >/dev/null || echo "chromium could not be installed (needs root and apt-get); its tests skip"
exit 0
