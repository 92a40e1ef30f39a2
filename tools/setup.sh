# What Tandem needs of the system, and how it is installed and built. Sourced by ./run and ./check, which
# have set $root to the top of the source tree.
# shellcheck disable=SC2034,SC2154 # the tables are for them, $root is theirs

say() { printf '%s\n' "$*" >&2; }

die() {
    say "tandem: $*"
    exit 1
}

# How to tell that it is there | Debian's and Ubuntu's package | what it is for
needs_of_build=(
    "command gcc|gcc|the C compiler"
    "header stdio.h|libc6-dev|the C library's headers"
    "command meson|meson|describes the build"
    "command ninja|ninja-build|runs the build"
    "command pkg-config|pkg-config|finds the libraries"
    "library libmicrohttpd|libmicrohttpd-dev|HTTP"
    "library libuv|libuv1-dev|the event loop"
    "library jansson|libjansson-dev|JSON"
    "library libedit|libedit-dev|line editing in tandem chat"
    "library yaml-0.1|libyaml-dev|settings files"
    "header oneapi/dnnl/dnnl.h|libdnnl-dev|oneDNN, the fast matrix products"
    "header CL/cl.h|opencl-c-headers|OpenCL, for experts on a GPU; drivers are found when the program runs"
    "header clblast_c.h|libclblast-dev|CLBlast, matrix products for GPUs; used when it is the faster way"
    "command curl|curl|to try the server out"
)
needs_of_tests=(
    "command clang|clang|the second compiler"
    "clang-openmp omp.h|libomp-dev|OpenMP for the second compiler"
    "library cmocka|libcmocka-dev|the C tests"
    "library OpenCL|ocl-icd-opencl-dev|finds OpenCL's drivers"
    "file /etc/OpenCL/vendors/pocl.icd|pocl-opencl-icd|an OpenCL device that is the CPU, to test the kernels on"
    "command shellcheck|shellcheck|reads the shell scripts"
    "command xz|xz-utils|unpacks test data"
    "command groff|groff-base|checks the man page"
    "command python3|python3|the end-to-end tests"
    "python ensurepip|python3-venv|Python packages of the tests, kept in build/venv"
)
# Debian starts their services when it installs them, so only .ci/run asks for them.
needs_of_balancers=(
    "file /usr/sbin/nginx|nginx-light|to test deploy/nginx.conf"
    "file /usr/sbin/haproxy|haproxy|to test deploy/haproxy.cfg"
)

# What other systems call these packages, where that is another name.
declare -A fedora=([libc6-dev]=glibc-devel [pkg-config]=pkgconf-pkg-config [libmicrohttpd-dev]=libmicrohttpd-devel
    [libuv1-dev]=libuv-devel [libjansson-dev]=jansson-devel [libedit-dev]=libedit-devel [libyaml-dev]=libyaml-devel
    [libdnnl-dev]=onednn-devel [libomp-dev]=libomp-devel [libcmocka-dev]=libcmocka-devel [shellcheck]=ShellCheck
    [xz-utils]=xz [python3-venv]=python3 [ocl-icd-opencl-dev]=ocl-icd-devel [opencl-c-headers]=opencl-headers
    [pocl-opencl-icd]=pocl [libclblast-dev]=clblast-devel)
declare -A arch=([libc6-dev]=glibc [ninja-build]=ninja [pkg-config]=pkgconf [libmicrohttpd-dev]=libmicrohttpd
    [libuv1-dev]=libuv [libjansson-dev]=jansson [libedit-dev]=libedit [libyaml-dev]=libyaml [libdnnl-dev]=onednn
    [libomp-dev]=openmp [libcmocka-dev]=cmocka [xz-utils]=xz [groff-base]=groff [python3]=python [python3-venv]=python
    [ocl-icd-opencl-dev]=ocl-icd [opencl-c-headers]=opencl-headers [pocl-opencl-icd]=pocl [libclblast-dev]=clblast)

# A signal, at whatever it comes: what was begun is taken up by the next call.
interrupted() { # EXIT STATUS
    [ -z "${builder-}" ] || ! kill "$builder" 2>/dev/null || wait "$builder" || true
    rm -f "${build_log-}"
    say "interrupted"
    exit "$1"
}
trap 'interrupted 130' INT

# Runs a program that builds, beside this script, so that a signal that only the script hears ends both. Only for so
# long: with a trap bash would wait for whatever else it runs.
building() {
    trap 'interrupted 143' TERM
    "$@" >>"$build_log" 2>&1 &
    builder=$!
    wait "$builder"
    local result=$?
    builder=
    trap - TERM
    return $result
}

asks_for_help() {
    local argument
    for argument in "$@"; do
        case $argument in -h | --help) return 0 ;; esac
    done
    return 1
}

# Whether a thing is there: present KIND NAME. 2: what would tell is not there itself.
present() {
    case $1 in
    command) command -v "$2" >/dev/null ;;
    library)
        command -v pkg-config >/dev/null || return 2
        pkg-config --exists "$2" 2>/dev/null
        ;;
    header)
        command -v gcc >/dev/null || return 2
        printf '#include <%s>\n' "$2" | gcc -E -x c - >/dev/null 2>&1
        ;;
    clang-openmp)
        command -v clang >/dev/null || return 2
        printf '#include <%s>\n' "$2" | clang -fopenmp -E -x c - >/dev/null 2>&1
        ;;
    file) [ -e "$2" ] ;;
    python)
        command -v python3 >/dev/null || return 2
        python3 -c "import $2" >/dev/null 2>&1
        ;;
    esac
}

all_present() { # ROW…
    local row
    for row in "$@"; do
        # shellcheck disable=SC2086 # KIND and NAME are two words
        present ${row%%|*} || return 1
    done
}

# The names of Debian's packages as another system has them: translated TABLE PACKAGE…
translated() {
    local -n table=$1
    local package names=()
    for package in "${@:2}"; do names+=("${table[$package]-$package}"); done
    printf '%s\n' "${names[*]}"
}

no_apt() { # PACKAGE…
    say "There is no apt here. These packages should be the like of them:"
    say "  Fedora: dnf install $(translated fedora "$@")"
    say "  Arch:   pacman -S --needed $(translated arch "$@")"
    die "install them, and run this again."
}

# Time to read the list and to change one's mind, for a person.
wait_for_objection() {
    [ -t 0 ] && [ -t 2 ] || return 0
    say "Ctrl-C within 5 seconds leaves everything as it is."
    sleep 5
}

# Installs the packages of the rows given whose thing is missing; nothing is touched when all is there.
install_missing() {
    local row how package why result missing=()
    for row in "$@"; do
        IFS='|' read -r how package why <<<"$row"
        # shellcheck disable=SC2086 # KIND and NAME are two words
        present $how && continue
        result=$?
        [ $result -ne 2 ] || why+=" (perhaps it is there: without those above there is no telling)"
        [ ${#missing[@]} -gt 0 ] || say "Tandem needs some packages that this machine does not have:"
        say "$(printf '  %-20s %s' "$package" "$why")"
        missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local as_root=()
    command -v apt-get >/dev/null || no_apt "${missing[@]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            die "this needs root, and there is no sudo. As root: apt-get install ${missing[*]}"
        as_root=(sudo)
        say "Installing them with apt; sudo may ask for your password."
    else
        say "Installing them with apt."
    fi
    wait_for_objection
    mkdir -p "$root/build"
    local log=$root/build/apt.log
    as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
    "${as_root[@]}" update >"$log" 2>&1 || say "apt-get update failed (see $log); trying with the lists there are."
    if ! "${as_root[@]}" install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt could not install the packages; the whole log is in $log"
    fi
}

# Brings a build tree up to date: build_tree DIRECTORY COMPILER TARGET [MESON OPTION…]. Silent when it goes
# well; a tree of another place, compiler or options is begun anew.
build_tree() {
    local dir=$1 compiler=$2 target=$3
    shift 3
    local made_as="$root $compiler $*"
    build_log=$(mktemp)
    if [ "$(cat "$dir/made-as" 2>/dev/null)" != "$made_as" ]; then
        [ ! -d "$dir/meson-private" ] || # what ./check keeps inside the tree of ./run stays
            find "$dir" -mindepth 1 -maxdepth 1 ! -name check ! -name platforms ! -name venv -exec rm -rf {} +
        mkdir -p "$dir"
        building env CC="$compiler" meson setup "$dir" "$root" "$@" && printf '%s' "$made_as" >"$dir/made-as"
    fi && building ninja -C "$dir" "$target"
    local result=$?
    if [ $result -ne 0 ]; then
        cat "$build_log" >&2
        say "tandem: the build in $dir failed; what meson and ninja said stands above."
    fi
    rm -f "$build_log"
    return $result
}
