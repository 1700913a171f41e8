#!/bin/sh
# Pins every dependency with its hashes for Python >= 3.11 on any platform. No index address is written.
set -eu
cd "$(dirname "$0")/.."
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
compile requirements/build.in -o requirements/build.txt
compile requirements/zig.in -o requirements/zig.txt
compile pyproject.toml --extra meter -o requirements/meter.txt
compile pyproject.toml --extra dcu -o requirements/dcu.txt
compile pyproject.toml --extra dev -o requirements/dev.txt
