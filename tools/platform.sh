# Other distributions to build and test on: ./check --platform NAME. Sourced by ./check, after tools/setup.sh.
# Each has a root of its own in build/platforms/NAME, made with debootstrap. Everything is mounted in a mount
# namespace that ends with its last process: nothing stays mounted, however it ends.
#   system/    the distribution; kept until a line of its row or of the needs in setup.sh changes
#   build/     what is build/ inside; the results are in build/check/results, as outside
# shellcheck disable=SC2154 # $root and the needs are ./check's and setup.sh's

# Name | what it is | apt's Origin | suite | components | official mirror | its Python | its keyring | the package
# that brings that | for machines whose apt does not have that package: where the mirror has it, and the SHA-256 of
# the keyring, which Debian 13's copy has too
platforms=(
    "trixie|Debian 13|Debian|trixie|main|http://deb.debian.org/debian|3.13|debian-archive-keyring.gpg|debian-archive-keyring||"
    "noble|Ubuntu 24.04|Ubuntu|noble|main,universe|http://archive.ubuntu.com/ubuntu|3.12|ubuntu-archive-keyring.gpg|ubuntu-keyring|pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb|80a36b0a6de2f69f49d2df75ef473ccde121e9e190b9ea01d20a4f63778d5c31"
)
needs_of_platforms=(
    "command debootstrap|debootstrap|makes the root of another distribution"
    "command unshare|util-linux|keeps its mounts apart"
    "command wget|wget|looks for a mirror"
    "command python3|python3|counts the tests"
    "python ensurepip|python3-venv|gets Python packages for it"
)

# Sets the columns of one platform's row, and $place.
read_platform() { # NAME
    local row
    for row in "${platforms[@]}"; do
        [ "${row%%|*}" != "$1" ] || break
    done
    # shellcheck disable=SC2034 # not every function needs all of them
    IFS='|' read -r name what origin suite components official python keyring keyring_package keyring_path \
        keyring_sum <<<"$row"
    keyring=/usr/share/keyrings/$keyring
    place=$root/build/platforms/$name
}

# apart FUNCTION [ARGUMENT…]: runs a function of this file where its mounts and processes end with it, even if
# what called it is killed.
apart() {
    # shellcheck disable=SC2016 # the inner shell expands these
    setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child bash -c '
        trap "exit 130" INT TERM # the first process of a namespace ignores what it does not ask for
        root=$1
        . "$root/tools/setup.sh"
        . "$root/tools/platform.sh"
        "${@:2}"
        exit $?' bash "$root" "$@"
}

# The place of the machine's own apt for this distribution, if it has one, then the official one.
mirrors() {
    apt-get indextargets --format "\$(ORIGIN)|\$(LABEL)|\$(CODENAME)|\$(REPO_URI)" "Identifier: Packages" 2>/dev/null |
        awk -F '|' -v origin="$origin" '$1 == origin && $2 == origin && $3 !~ /-/ && $4 ~ /^(https?|file):/ { print $4 }'
    printf '%s\n' "$official/"
}

has_suite() { # MIRROR
    case $1 in
    file:*) [ -e "${1#file:}/dists/$suite/Release" ] ;;
    *) wget -q --spider --timeout=20 --tries=2 "$1/dists/$suite/Release" ;;
    esac
}

find_mirror() {
    while read -r mirror; do
        mirror=${mirror%/}
        ! has_suite "$mirror" || return 0
    done < <(mirrors)
    return 1
}

# The keys that the distribution is signed with: from apt, or else from the mirror, if they are the ones we know.
find_keyring() {
    [ ! -e "$keyring" ] || return 0
    if apt-cache madison "$keyring_package" 2>/dev/null | grep -q .; then
        (install_missing "file $keyring|$keyring_package|the keys that $what is signed with")
        return
    fi
    [ -n "$keyring_path" ] || return 1
    local unpacked=$place/keyring
    rm -rf "$unpacked" && mkdir -p "$unpacked" &&
        wget -q --timeout=20 --tries=2 -O "$unpacked/keyring.deb" "$mirror/$keyring_path" &&
        dpkg-deb -x "$unpacked/keyring.deb" "$unpacked" || return 1
    keyring=$unpacked$keyring
    echo "$keyring_sum  $keyring" | sha256sum --check --status
}

# Sets $obstacle to what this machine lacks for making a root, if anything.
find_obstacle() {
    if [ "$(id -u)" -ne 0 ]; then
        obstacle="making a root needs root rights: sudo ./check --platform $name"
    elif ! apart mount -t tmpfs none /mnt 2>"$place/log"; then
        obstacle="nothing can be mounted here ($(tail -n 1 "$place/log"))"
    elif ! (install_missing "${needs_of_platforms[@]}"); then
        obstacle="what makes a root can not be installed"
    elif ! find_mirror; then
        obstacle="no mirror of $what can be reached (tried: $(mirrors | paste -s -d ' '))"
    elif ! find_keyring; then
        obstacle="the keys of $what ($keyring_package) were not found, or are not the ones expected"
    else
        return 1
    fi
}

# What apt inside has to know of this machine's network and trust.
pass_on_the_network() { # ROOT
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    apt-config dump | grep -iE '^Acquire::(https?::Proxy|Check-(Date|Valid-Until)) ' >"$1/etc/apt/apt.conf.d/90machine"
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] ||
        cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
}

make_root() { # NAME MIRROR KEYRING DIRECTORY
    read_platform "$1"
    rm -rf "$4" "$4.new" &&
        timeout --foreground 400 debootstrap --variant=minbase --include=ca-certificates --components="$components" \
            --keyring="$3" "$suite" "$4.new" "$2" &&
        pass_on_the_network "$4.new" &&
        mv "$4.new" "$4"
}

# What a root was made of: the packages in it come from the tables of setup.sh, through ./check inside.
made_of() {
    declare -p platforms needs_of_build needs_of_tests
}

# Python packages are fetched with this machine's pip, which knows how to reach them, for the Python inside.
fetch_wheels() {
    local pins=tests/e2e/requirements.txt wheels=$place/build/wheels
    cmp -s "$pins" "$wheels/made-of" && return
    rm -rf "$wheels" && make_venv >"$place/log" 2>&1 &&
        build/venv/bin/python -m pip download --quiet --python-version "$python" --only-binary=:all: \
            --dest "$wheels" -r "$pins" >>"$place/log" 2>&1 && cp "$pins" "$wheels/made-of" && return
    tail -n 20 "$place/log" >&2
    return 1
}

enter_root() { # NAME [PART…]
    read_platform "$1"
    shift
    local inside=$place/system
    mount -t proc proc "$inside/proc" && mount --rbind /sys "$inside/sys" && mount --rbind /dev "$inside/dev" &&
        mount --bind "$root" "$inside/tandem" && mount -o remount,bind,ro "$inside/tandem" &&
        mount --bind "$place/build" "$inside/tandem/build" || return 1
    find "$inside/tmp" -mindepth 1 -delete
    env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        TERM="${TERM:-dumb}" PIP_NO_INDEX=1 PIP_FIND_LINKS=/tandem/build/wheels \
        chroot "$inside" /tandem/check "$@"
}

# The whole of ./check --platform NAME [PART…]. Its results are counted as one skipped where no root can be made.
check_platform() {
    read_platform "$1"
    local results=$place/build/check/results obstacle="" mirror=""
    rm -rf "$results"
    mkdir -p "$results"
    if ! find_obstacle && ! made_of | cmp -s - "$place/system/made-of"; then
        say "— $what: making its root from $mirror"
        local start=$SECONDS
        if apart make_root "$name" "$mirror" "$keyring" "$place/system" >"$place/log" 2>&1; then
            echo force-unsafe-io >"$place/system/etc/dpkg/dpkg.cfg.d/90fast"
            mkdir "$place/system/tandem"
            made_of >"$place/system/made-of"
            say "  $((SECONDS - start)) s"
        else
            obstacle="debootstrap failed: $(grep -v '^I:' "$place/log" | tail -n 1) (see build/platforms/$name/log)"
        fi
    fi
    if [ -n "$obstacle" ]; then
        echo "ok 1 - $name # SKIP $obstacle" >"$results/platform.tap"
        python3 "$root/tests/tally.py" "$results"
        return
    fi
    fetch_wheels || say "Python packages for $what were not found: its end-to-end tests will say so."
    [ ! -d "$root/build/makers" ] || cp -a "$root/build/makers" "$place/build/" # fetched by the tests here
    pass_on_the_network "$place/system"
    say "— $what: ./check ${*:2}"
    apart enter_root "$@"
}
