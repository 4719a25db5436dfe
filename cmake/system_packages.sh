#!/bin/sh
# Finds what a build from source needs of the system and installs what is missing, where apt-get may be used.
# What counts is the thing itself (a header the compiler finds, a module Python has), not a package database:
# a machine with the libraries elsewhere needs nothing installed.
#
#   PYTHON=python3.11 sh cmake/system_packages.sh build        needed: stops if it cannot be had
#   PYTHON=python3.11 sh cmake/system_packages.sh fuzz         clang with libFuzzer: stops if it cannot be had
#   PYTHON=python3.11 sh cmake/system_packages.sh text         WordNet's files for text_based: says so and goes on
#   PYTHON=python3.11 sh cmake/system_packages.sh shells       fish and zsh, whose completion is tested: says so and goes on
#   PYTHON=python3.11 sh cmake/system_packages.sh laion        what gcld3 is built with, for laion2b: says so and goes on
set -eu

PYTHON=${PYTHON:-python3}
WORDNET=/usr/share/wordnet

have_command() { command -v "$1" >/dev/null 2>&1; }

have_header() {
  if have_command c++; then
    printf '#include <stdio.h>\n#include <%s>\n' "$1" | c++ -std=c++20 -E -x c++ - >/dev/null 2>&1
  else
    [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ]
  fi
}

have_fuzzer() {
  have_command clang++ || return 1
  [ -e "$(clang++ -print-resource-dir)/lib/linux/libclang_rt.fuzzer-$(uname -m).a" ] ||
    [ -e "$(clang++ -print-runtime-dir 2>/dev/null)/libclang_rt.fuzzer.a" ]
}

have() {
  case $1 in
    g++) have_command c++ ;;
    python*-dev) "$PYTHON" -c 'import os, sysconfig as s
raise SystemExit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' ;;
    python*-venv) "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ;;
    libjpeg-dev) have_header jpeglib.h ;;
    libpng-dev) have_header png.h ;;
    libwebp-dev) have_header webp/decode.h ;;
    libsimdjson-dev) have_header simdjson.h ;;
    libxxhash-dev) have_header xxhash.h ;;
    protobuf-compiler) have_command protoc ;;
    libprotobuf-dev) have_header google/protobuf/message.h ;;
    fish|zsh) have_command "$1" ;;
    clang) have_command clang++ ;;
    libclang-rt-dev) have_fuzzer ;;
    wordnet-base) [ -n "${DCFAST_WORDNET:-}" ] || [ -e "$WORDNET/data.noun" ] ;;
    wordnet-sense-index) [ -n "${DCFAST_WORDNET:-}" ] || [ -e "$WORDNET/index.sense" ] ;;
    *) return 1 ;;
  esac
}

missing_of() {
  for package in "$@"; do
    have "$package" || printf '%s ' "$package"
  done
}

# Debian names the headers and the venv module of each Python after its version; another Python than the
# system's (pyenv, conda) brings its own.
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case ${1:-} in
  build) packages="g++ python$version-dev python$version-venv libjpeg-dev libpng-dev libwebp-dev libsimdjson-dev libxxhash-dev" ;;
  fuzz) packages="clang libclang-rt-dev" ;;
  text) packages="wordnet-base wordnet-sense-index" ;;
  laion) packages="protobuf-compiler libprotobuf-dev" ;;
  shells) packages="fish zsh" ;;
  *) echo "usage: system_packages.sh build|fuzz|text|laion|shells" >&2; exit 2 ;;
esac

# shellcheck disable=SC2086  # a list of words
missing=$(missing_of $packages)
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
  if have_command sudo && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
  elif have_command sudo && [ -t 0 ]; then
    as_root=sudo
  else
    as_root=none
  fi
fi

if have_command apt-get && [ "$as_root" != none ]; then
  echo "installing what is missing of the system: $missing"
  # shellcheck disable=SC2086
  install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
      install -y -qq --no-install-recommends $missing
  }
  # a fresh machine has no package lists, or old ones: fetch them once the first try has failed
  install >/dev/null 2>&1 || { $as_root apt-get -o DPkg::Lock::Timeout=300 update -qq && install; } || true
  # shellcheck disable=SC2086
  missing=$(missing_of $packages)
  [ -n "$missing" ] || exit 0
fi

case $1 in
  build)
    {
      echo "dcfast is built from source, and this machine lacks (names as in Debian and Ubuntu): $missing"
      echo "As root: apt-get install $missing"
      echo "Elsewhere, install the same libraries where the compiler finds them (CPATH and LIBRARY_PATH, or"
      echo "CMAKE_PREFIX_PATH), and choose a Python with its headers and venv by PYTHON=..."
    } >&2
    exit 1 ;;
  fuzz)
    {
      echo "fuzzing needs clang with its runtime (libFuzzer), and this machine lacks: $missing"
      echo "As root: apt-get install clang, and libclang-rt-N-dev of its version N"
    } >&2
    exit 1 ;;
  text)
    {
      echo "WordNet's files are missing: tests of the text_based filter will be skipped."
      echo "As root: apt-get install $missing"
    } >&2 ;;
  shells) echo "The completion of these shells will not be tested: $missing" >&2 ;;
  laion)
    {
      echo "What gcld3 is built with is missing: the laion2b filter cannot be used."
      echo "As root: apt-get install $missing"
    } >&2 ;;
esac
