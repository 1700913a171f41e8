#!/bin/sh
# Builds and installs this project with the C++ compiler that is there; where there is none, with the one in the ziglang
# wheel, which pip can install anywhere.    usage: build.sh VENV/bin [pip install arguments]
set -eu
bin=$1
shift
headers=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -f "$headers/Python.h" ]; then
  echo "error: no Python.h in $headers; install Debian's package python3-dev (or that of this Python)"
  exit 2
fi
if ! command -v "${CXX:-c++}" > /dev/null 2>&1; then
  echo "no C++ compiler on the PATH: using the ziglang wheel"
  "$bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/zig.txt
  here=$(cd "$bin" && pwd)
  for tool in c++ ar ranlib; do
    printf '#!/bin/sh\nexec "%s/python" -m ziglang %s "$@"\n' "$here" "$tool" > "$here/zig-$tool"
    chmod +x "$here/zig-$tool"
  done
  export CXX="$here/zig-c++"
  export CMAKE_ARGS="-DCMAKE_AR=$here/zig-ar -DCMAKE_RANLIB=$here/zig-ranlib ${CMAKE_ARGS:-}"
fi
PATH="$bin:$PATH" "$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$@"
