"""The rules of the house that a machine can check, as one test each (TAP). Breaches name file:line.

  layering.py [TREE]     the tree that this file is in, unless told

Each rule is a function from a file to its breaches. Before the tree is judged, every rule has to find the
breach that was made for it in SAMPLES.
"""
import pathlib
import re
import sys

SKIPPED_DIRS = {".git", "build", "__pycache__", "models"}
LINES_MAX = 800

# Who may include whom: the first row whose pattern fits a file counts; quoted includes must fit one of its patterns.
SEES = [
    ("base/", ["base/"]),
    ("engine/(engine|watch).h", ["base/"]),
    ("engine/inspect.h", ["base/", "engine/engine.h"]),
    ("engine/scheduler.", ["base/", "engine/scheduler.h"]),
    ("engine/pace.", ["engine/pace.h"]),
    ("engine/lookup.", ["base/", "engine/lookup.h"]),
    ("engine/speculate.", ["base/", "engine/(lookup|speculate).h"]),
    ("engine/checkpoints/", ["base/", "engine/checkpoints/", "engine/hf_json.h"]),
    ("engine/quants/", ["base/", "engine/quants/", "engine/(engine|weights).h"]),
    ("engine/weight_cache.", ["base/", "engine/weight_cache.h"]),
    ("engine/opencl/device.c", ["base/", "engine/opencl/", "engine/inspect.h"]),
    ("engine/(reference|cpu|opencl)/", ["base/", "engine/{}/", "engine/(engine|machine|stages|weights|batch|kv_cache).h", "engine/quants/"]),
    ("engine/architectures/", ["base/", "engine/architectures/", "engine/(model|binder|forward|stages|weights|hf_json).h"]),
    ("engine/", ["base/", "engine/"]),
    ("api/", ["base/", "api/", "engine/engine.h"]),
    ("server/", ["base/", "server/", "api/", "engine/(engine|watch).h"]),
    ("cli/", ["base/", "cli/", "server/", "api/", "engine/(engine|watch|inspect).h"]),
    ("tests/", [""]),
]

# Who may use which library.
LIBRARIES = [
    ("jansson.h", "api/|cli/|engine/(hf_json|tokenizer|model|chat_template)|engine/(architectures|checkpoints)/|tests/"),
    ("microhttpd.h", "server/http_inside.h"),
    ("uv.h", "server/loop.c"),
    ("histedit.h", "cli/line.c"),
    ("c?yaml(/.*)?.h", "base/settings_file.c"),
    ("(oneapi/dnnl/)?dnnl.*", "engine/cpu/onednn.c"),
    ("CL/.*", "engine/opencl/"),
    ("omp.h", "engine/(cpu|reference)/|tests/"),
    ("cmocka.h", "tests/"),
]

INCLUDE = re.compile(r'\s*#\s*include\s*(["<])([^">]+)')
UNBOUNDED = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|gets|alloca|atoi|atol|atof|strtok)\s*\(")
PRINTS = re.compile(r"\b(printf|vprintf|puts|putchar|perror|fprintf|fputs|syslog)\s*\(")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
ONE_MACHINE = re.compile(
    r"/(work|root|home/\w+|Users/\w+)/"
    r"|\b(10\.\d+|192\.168|172\.(1[6-9]|2\d|3[01]))\.\d+\.\d+\b"
    r"|https?://[\w.-]+\.(internal|local|lan|corp)\b"
)


def is_c(path):
    return path.endswith((".c", ".h"))


def fits(pattern, text):
    return re.match(pattern.replace(".h", r"\.h").replace(".c", r"\.c"), text) is not None


def includes(path, lines):
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line) if is_c(path) else None
        if found:
            yield number, found[1] == '"', found[2]


def rooms(path, lines, tree):
    row = next((row for row in SEES if fits(row[0], path)), None)
    for number, quoted, name in includes(path, lines):
        if not quoted:
            continue
        if row is None:
            yield number, f"lies in no room that may include {name}"
        elif not any(fits(pattern.format(path.split("/")[-2]), name) for pattern in row[1]):
            yield number, f"may not include {name}"
        elif not (tree / name).is_file() and not (tree / path).parent.joinpath(name).is_file():
            yield number, f"{name} is not in the tree (paths start at its top)"
        elif name.endswith(".c") and not path.startswith("tests/"):
            yield number, f"{name} is not a header"


def libraries(path, lines, tree):
    for number, _, name in includes(path, lines):
        for library, users in LIBRARIES:
            if re.fullmatch(library.replace(".h", r"\.h"), name) and not fits(f"({users})", path):
                yield number, f"may not use {name}"


def length(path, lines, tree):
    if len(lines) > LINES_MAX and path.endswith((".c", ".h", ".py", ".sh", ".build")):
        yield len(lines), f"is longer than {LINES_MAX} lines"


def in_build(path, lines, tree):
    stem = pathlib.PurePath(path).stem
    listed = re.compile(rf"['/]({stem}\.c|{stem}|{stem.removeprefix('test_')})'")
    builds = [tree / "meson.build", *(tree / "tests").glob("**/meson.build")]
    if path.endswith(".c") and not any(listed.search(build.read_text()) for build in builds):
        yield 1, "is in no meson.build: it is neither compiled nor run"


def matches(pattern, says):
    def rule(path, lines, tree):
        for number, line in enumerate(lines, 1):
            found = pattern.search(line)
            if found:
                yield number, f"{says}: {found[0].strip()}"
    return rule


def unbounded(path, lines, tree):
    return matches(UNBOUNDED, "is unbounded or unchecked")(path, lines, tree) if is_c(path) and not path.startswith("tests/") else ()


def prints(path, lines, tree):
    library = path.startswith(("base/", "engine/", "api/")) and is_c(path)
    return matches(PRINTS, "library code does not print")(path, lines, tree) if library else ()


# Rule, its name, and a breach that it has to find.
RULES = [
    (rooms, "who may include whom", ("api/sample.c", '#include "engine/model.h"')),
    (libraries, "who may use which library", ("server/sample.c", "#include <uv.h>")),
    (length, f"no file over {LINES_MAX} lines", ("base/sample.c", "\n" * (LINES_MAX + 1))),
    (in_build, "every C file is in a meson.build", ("tests/unit/test_of_no_build.c", "int x;")),
    (unbounded, "no unbounded C functions", ("cli/sample.c", "    strcpy(a, b);")),
    (prints, "library code does not print", ("engine/sample.c", '    printf("x");')),
    (matches(UNFINISHED, "is unfinished"), "no marks of unfinished work", ("base/sample.c", "// TO" "DO: x")),
    (matches(ONE_MACHINE, "belongs to one machine"), "no paths or hosts of one machine", ("run", "cd /ro" "ot/x")),
]


def files(tree):
    for path in sorted(tree.rglob("*")):
        relative = path.relative_to(tree)
        if path.is_file() and not path.is_symlink() and not SKIPPED_DIRS & set(relative.parts):
            try:
                yield relative.as_posix(), path.read_text().splitlines()
            except UnicodeDecodeError:
                pass  # not a text


def main(tree):
    failed = False
    texts = list(files(tree))
    print(f"1..{len(RULES)}")
    for number, (rule, name, (sample_path, sample)) in enumerate(RULES, 1):
        breaches = [f"{path}:{line}: {says}" for path, lines in texts for line, says in rule(path, lines, tree)]
        if not list(rule(sample_path, sample.splitlines() or [""], tree)):
            breaches.append("the rule does not find the breach that was made for it")
        for breach in breaches:
            print(f"# {breach}")
        print(f"{'not ok' if breaches else 'ok'} {number} - {name}")
        failed |= bool(breaches)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[1]))
