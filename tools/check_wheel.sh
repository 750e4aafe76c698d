#!/usr/bin/env bash
# The sdist and the wheel, as a user gets them: built, looked into, installed in an environment of their
# own, and tried from an empty folder: the commands, every entry point, the demo, its report.
#
#   tools/check_wheel.sh            about four minutes; most of it is pip
#   PIP_TORCH="--index-url https://download.pytorch.org/whl/cpu torch==2.13.0" tools/check_wheel.sh
#   KEEP=folder tools/check_wheel.sh    leaves everything in that (new) folder
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
PIP_TORCH=${PIP_TORCH:-torch==2.13.0}
if [ -n "${KEEP:-}" ]; then
    mkdir "$KEEP" && WORK=$(cd "$KEEP" && pwd)
else
    WORK=$(mktemp -d)
fi
BIN=$WORK/env/bin
# Nothing of the user's, and nothing of the checkout.
unset PYTHONPATH
export AIIDA_PATH=$WORK/aiida PATH=$BIN:$PATH

clean_up() {
    if [ -d "$AIIDA_PATH" ]; then verdi daemon stop >/dev/null 2>&1 || true; fi
    if [ -z "${KEEP:-}" ]; then rm -rf "$WORK"; fi
}
trap clean_up EXIT
step() { echo "check_wheel: $* (${SECONDS} s)"; }
fail() { echo "check_wheel: $*" >&2; exit 1; }

step "building"
"$PYTHON" -m venv "$WORK/env"
python -m pip install --quiet build
python -m build --outdir "$WORK/dist" . >"$WORK/build.log" 2>&1 || { tail -n 20 "$WORK/build.log" >&2; fail "no build"; }
WHEEL=$(ls "$WORK"/dist/*.whl)
SDIST=$(ls "$WORK"/dist/*.tar.gz)

step "what is in them"
# The wheel: every file of the package that git has, and the licence. The sdist: everything that git has.
python - "$WHEEL" "$SDIST" <<'PYTHON'
import subprocess
import sys
import tarfile
import zipfile

wheel, sdist = zipfile.ZipFile(sys.argv[1]), tarfile.open(sys.argv[2])
listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
tracked = set(listed.splitlines())
in_wheel = set(wheel.namelist())
in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
asked = {"LICENSE", "README.md", "CITATION.cff", "CHANGELOG.md", "pyproject.toml", "examples/diamond.py",
         "docs/tutorial.md", "aiida_rm/workflows/protocols/loop.yaml",
         "aiida_rm/report/templates/report.html"}  # fmt: skip
missing = [f"sdist: {name}" for name in sorted((tracked | asked) - in_sdist)]
package = {name for name in tracked | asked if name.startswith("aiida_rm/")}
missing += [f"wheel: {name}" for name in sorted(package - in_wheel)]
if not any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel):
    missing.append("wheel: LICENSE")
foreign = [name for name in in_wheel if not name.startswith(("aiida_rm/", "aiida_rm-"))]
problems = [f"missing in {one}" for one in missing] + [f"too much: {name}" for name in foreign]
if problems:
    sys.exit("check_wheel: " + "\ncheck_wheel: ".join(problems))
print(f"check_wheel: {len(in_wheel)} files in the wheel, {len(in_sdist)} in the sdist")
PYTHON

step "installing"
# shellcheck disable=SC2086 # several words
python -m pip install --quiet $PIP_TORCH
python -m pip install --quiet "$WHEEL[report]"
mkdir "$WORK/empty" && cd "$WORK/empty"
case $(python -c 'import aiida_rm; print(aiida_rm.__file__)') in
    "$WORK"/env/*) ;;
    *) fail "aiida_rm does not come from the wheel" ;;
esac

step "commands and entry points"
aiida-rm --version
aiida-rm --help >help.txt
aiida-rm-engine --help >/dev/null
# What the wheel registers: each by verdi where verdi knows the group, and each is loaded.
python - >points.txt <<'PYTHON'
from importlib.metadata import distribution

for point in distribution("aiida-rm").entry_points:
    point.load()
    print(point.group, point.name)
PYTHON
known() { python -c 'import sys; from aiida.plugins.entry_point import ENTRY_POINT_GROUP_TO_MODULE_PATH_MAP as known; sys.exit(sys.argv[1] not in known)' "$1"; }
for group in $(cut -d ' ' -f 1 points.txt | sort -u); do
    known "$group" || continue
    verdi plugin list "$group" >list.txt
    for name in $(sed -n "s/^$group //p" points.txt); do
        grep -q -- " $name" list.txt || fail "verdi plugin list $group: no $name"
        case $group in aiida.calculations | aiida.workflows) ;; *) continue ;; esac
        verdi plugin list "$group" "$name" >told.txt || fail "verdi plugin list $group $name"
    done
done
step "$(wc -l <points.txt) entry points load and are listed"

step "the demo, as small as it goes"
tar -xzf "$SDIST" --strip-components=1 --wildcards '*/examples'
python examples/diamond.py --protocol fast --epochs 1 >demo.txt || { cat demo.txt; fail "the demo"; }
grep -q 'process status' demo.txt || { cat demo.txt; fail "the demo says nothing"; }

step "its report"
LOOP=$(sed -n 's/.*verdi process status \([0-9]*\).*/\1/p' demo.txt)
AIIDA_PATH=$PWD/.demo aiida-rm report "$LOOP" --output report.html >/dev/null
[ "$(wc -c <report.html)" -gt 100000 ] || fail "the report is too small"

step "setup and launch, as on the pages"
aiida-rm setup --yes >/dev/null
python -c 'from ase.build import bulk; bulk("C", "diamond", a=3.567).write("diamond.cif")'
aiida-rm launch loop --protocol fast --code aiida-rm-engine@localhost --dataset diamond.cif --dry-run >plan.txt
grep -q 'Nothing was stored' plan.txt || fail "the plan"
step "all is well"
