#!/usr/bin/env bash
# Packs what the GPU machine lacks (DALI, nvimgcodec, simplejpeg, rich) into .gpu/1, .gpu/2 and .gpu/3, to be copied one
# a visit: at most 64 MiB each, the project's own 3 MiB included. For Python 3.12 on x86-64. Run once, in the project's root.
#
# Part 1 also holds small.tar.xz, which is of use at once: every stage needs simplejpeg, and none before `dali` needs DALI.
set -euo pipefail

readonly PART_BYTES=58000000
readonly PYTHON=${PYTHON:-python3}
readonly SMALL=(simplejpeg rich markdown-it-py mdurl pygments)
readonly LARGE=(nvidia-dali-cuda130==2.4.0 nvidia-nvimgcodec-cu13==0.9.0.20 nvidia-nvjpeg nvidia-libnvcomp-cu13==5.3.0.16
    astunparse gast libcst makefun nvtx optree)

[ -f pyproject.toml ] || { echo "run this in the project's root" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# unpack FOLDER PACKAGE...: the packages' files for the GPU machine's Python, in FOLDER.
unpack() {
    local folder=$1 wheels=$scratch/wheels-${1##*/} options=() tag
    shift
    # pip matches each tag by itself, so every one that these packages use is named.
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
        options+=(--platform "${tag}_x86_64")
    done
    "$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --implementation cp --python-version 3.12 \
        "${options[@]}" --dest "$wheels" "$@"
    mkdir -p "$folder"
    for wheel in "$wheels"/*.whl; do
        "$PYTHON" -m zipfile -e "$wheel" "$folder"
    done
}

unpack "$scratch/small" "${SMALL[@]}"
unpack "$scratch/large" "${LARGE[@]}"

# Decoding JPEGs and warping need neither headers nor samples, no other Python's libraries, and no other format's codec.
(
    cd "$scratch/large/nvidia"
    rm -rf dali/include dali/test nvimgcodec/include nvimgcodec/samples libnvcomp/bin libnvcomp/include cu13/include
    rm -f __init__.py # it says nothing, and would hide the machine's own packages below nvidia/
    rm -f nvimgcodec/extensions/lib{opencv,tiff,nvtiff,nvjpeg2k}_ext*
)
find "$scratch/large" -name '*.cpython-3*.so' ! -name '*.cpython-312-*' -delete
find "$scratch/large" -name '*.so*' -type f -size +1M -print0 | xargs -0 -r strip --strip-unneeded 2>/dev/null || true

rm -rf .gpu
mkdir -p .gpu/1 .gpu/2 .gpu/3
tar -C "$scratch/small" -c . | xz -6 >.gpu/1/small.tar.xz
tar -C "$scratch/large" -c . | xz -T2 -6 | split -b "$PART_BYTES" -d -a 1 - "$scratch/dali."
number=0
for part in "$scratch"/dali.?; do
    number=$((number + 1))
    [ "$number" -le 3 ] || { echo "DALI takes more than three parts of $PART_BYTES bytes" >&2; exit 1; }
    mv "$part" ".gpu/$number/"
done
du -b .gpu/*/*
