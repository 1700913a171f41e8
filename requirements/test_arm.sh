#!/bin/sh
# Runs the sweep of the aarch64 wheel under qemu-user and compares it with this machine's, state by state.
#   usage: test_arm.sh VENV/bin      needs qemu-aarch64 (Debian package qemu-user) and apt for an arm64 Python 3.11
set -eu
cd "$(dirname "$0")/.."
bin=$1
command -v qemu-aarch64 > /dev/null || { echo "error: no qemu-aarch64 on the PATH; install Debian's package qemu-user"; exit 2; }
wheel=$(ls dist/headroom-*-cp311-*aarch64.whl 2> /dev/null) || { echo "error: no aarch64 wheel for Python 3.11 in dist; run make wheels with Python 3.11"; exit 2; }
root=build/arm
mkdir -p "$root/debs" "$root/lists/partial" "$root/sysroot" "$root/site"
if [ ! -x "$root/sysroot/usr/bin/python3.11" ]; then
  set -- -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oDir::State::Lists="$PWD/$root/lists"
  apt-get "$@" -qq update
  (cd "$root/debs" && apt-get "$@" -qq download libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 \
    libpython3.11-minimal libpython3.11-stdlib python3.11-minimal)
  for deb in "$root"/debs/*.deb; do dpkg -x "$deb" "$root/sysroot"; done
fi
numpy=$("$bin/python" -c 'import numpy; print(numpy.__version__)')
"$bin/python" -m pip --quiet --disable-pip-version-check install --no-deps --upgrade --only-binary :all: --target "$root/site" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
  --python-version 3.11 "numpy==$numpy"
"$bin/python" -m zipfile -e "$wheel" "$root/site"
"$bin/python" -m benchmarks.arm_case write "$root/case.npz"
PYTHONPATH="$root/site" PYTHONHOME="$PWD/$root/sysroot/usr" \
  qemu-aarch64 -L "$root/sysroot" "$root/sysroot/usr/bin/python3.11" benchmarks/arm_case.py check "$root/case.npz"
