#!/bin/sh
# The wheels of this version: x86-64 with whatever compiler is here, aarch64 cross-compiled with the ziglang wheel.
#   usage: wheels.sh VENV/bin        result: dist/*.whl
set -eu
cd "$(dirname "$0")/.."
bin=$1
here=$(cd "$bin" && pwd)
mkdir -p dist
pip="$bin/python -m pip --quiet --disable-pip-version-check"
$pip install --require-hashes --only-binary :all: -r requirements/zig.txt

for tool in ar ranlib; do
  printf '#!/bin/sh\nexec "%s/python" -m ziglang %s "$@"\n' "$here" "$tool" > "$here/zig-$tool"
done
# glibc 2.28 is what Debian 10 and the manylinux_2_28 wheels of NumPy have.
for arch in x86_64 aarch64; do
  printf '#!/bin/sh\nexec "%s/python" -m ziglang c++ -target %s-linux-gnu.2.28 "$@"\n' "$here" "$arch" > "$here/zig-c++-$arch"
done
chmod +x "$here"/zig-*

for arch in x86_64 aarch64; do
  tag=$("$bin/python" -c 'import sys; print(f"cpython-{sys.version_info[0]}{sys.version_info[1]}")')
  PATH="$here:$PATH" CXX="$here/zig-c++-$arch" \
  _PYTHON_HOST_PLATFORM="linux-$arch" SETUPTOOLS_EXT_SUFFIX=".$tag-$arch-linux-gnu.so" \
  CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=$arch -DCMAKE_AR=$here/zig-ar -DCMAKE_RANLIB=$here/zig-ranlib" \
    $pip wheel --no-deps --no-build-isolation --wheel-dir dist \
    --config-settings=wheel.platlib=true --config-settings="build-dir=build/wheel-$arch" .
done
ls -l dist/*.whl
