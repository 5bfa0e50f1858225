#!/bin/sh
# Makes sure that the machine has what a build and a run need: a Rust toolchain, a C linker, a Vulkan loader and a
# Vulkan driver (any will do, the software one included). On Debian and Ubuntu what is missing is installed; elsewhere
# it is named. Quick when nothing is missing.
set -eu

say() { echo "ensure-vulkan: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

ensure_cargo() {
    have cargo && return 0
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
        say "cargo is in $HOME/.cargo/bin, which is not on PATH; run: . \"$HOME/.cargo/env\""
    else
        say "no Rust toolchain (cargo) found; install it with:"
        say "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
        say "then open a new shell, or run: . \"$HOME/.cargo/env\""
    fi
    exit 1
}

# The loader: in the linker's cache, or where LD_LIBRARY_PATH points.
has_loader() {
    ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
    "$ldconfig" -p 2>/dev/null | grep -q 'libvulkan\.so\.1' && return 0
    found_in "$(echo "${LD_LIBRARY_PATH:-}" | tr ':' ' ')" 'libvulkan.so.1'
}

# A driver: a manifest in one of the loader's folders, or named by its environment variables.
has_driver() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}${VK_ADD_DRIVER_FILES:-}" ] && return 0
    data_dirs=$(echo "${XDG_DATA_DIRS:-/usr/local/share:/usr/share}" | tr ':' ' ')
    folders="/etc/vulkan/icd.d /usr/local/etc/vulkan/icd.d ${XDG_DATA_HOME:-$HOME/.local/share}/vulkan/icd.d"
    for dir in $data_dirs /usr/local/share /usr/share; do folders="$folders $dir/vulkan/icd.d"; done
    found_in "$folders" '*.json'
}

# found_in "folder folder ..." pattern: whether any folder holds a match.
found_in() {
    for folder in $1; do
        for file in "$folder"/$2; do [ -e "$file" ] && return 0; done
    done
    return 1
}

missing_packages() {
    has_loader || echo libvulkan1
    has_driver || echo mesa-vulkan-drivers
    have cc || echo gcc libc6-dev
}

install_with_apt() {
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! have sudo; then
            say "not root and no sudo; as root, run:"
            say "    apt-get update && apt-get install --no-install-recommends --yes $*"
            exit 1
        fi
        as_root=sudo
    fi
    say "installing $*"
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends --yes "$@" >/dev/null
}

ensure_on_linux() {
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] && return 0
    if have apt-get; then
        # shellcheck disable=SC2086  # one word per package
        install_with_apt $missing
    else
        # No reason to stop: the loader may sit where this script does not look (NixOS).
        say "not found (Debian's package names): $missing"
        say "if the build or the device is missing something, install a C compiler, the Vulkan loader and a driver:"
        say "    Fedora: gcc vulkan-loader mesa-vulkan-drivers   Arch: gcc vulkan-icd-loader vulkan-swrast"
    fi
}

ensure_cargo
case "$(uname -s)" in
    Linux) ensure_on_linux ;;
    Darwin | MINGW* | MSYS* | CYGWIN*) ;; # Metal and DX12 come with the system.
    *) say "unknown system $(uname -s): a Vulkan loader and driver are needed" ;;
esac
