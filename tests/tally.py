"""Counts every test of a ./check and prints the line that ends it.

  tally.py [--durations] [PLATFORM=]DIRECTORY…

Reads directories: NAME.tap (TAP, one step), NAME.json (meson's testlog.json, whose tests print TAP) and
NAME.xml (JUnit, from pytest). A program that dies before all its announced tests have reported counts the
missing ones as failed; so does a directory without results. What was skipped is named once, like beside like.
--durations names the slowest as well. Exits with 1 when a test failed or none ran.
"""
import json
import pathlib
import re
import sys
import textwrap
import xml.etree.ElementTree as ElementTree

RESULT = re.compile(r"^(not )?ok \d+(?: - )?(.*?)\s*(?:# SKIP\b\s*(.*))?$")
PLAN = re.compile(r"^1\.\.(\d+)")
VARIANT = re.compile(r"^([^ \[]+)[ \[](.+?)\]?$")  # of a test: what stands behind its name, or in pytest's brackets
MORE_SUITES = re.compile(r"\+\S+")  # of a test that is in several, behind its first
SLOWEST = 10
COLUMNS = 120


class Tally:
    def __init__(self):
        self.passed, self.failed, self.skipped, self.durations = 0, [], {}, []

    def skip(self, run, suite, name, reason):
        """run: which of the runs of the same tests; suite: the program or the file."""
        reason = (reason or "no reason given").removeprefix("skipped: ")
        self.skipped.setdefault(reason, []).append((run, suite, name))

    def tap(self, run, suite, text, returncode=0):
        planned = reported = failures = 0
        said = ""  # the last remark: a skipping test says why before it skips
        for line in text.splitlines():
            plan, result = PLAN.match(line), RESULT.match(line)
            if plan:
                planned += int(plan[1])
            elif result:
                reported += 1
                name = result[2] or result[3]  # cmocka 1.1.5 puts the name behind SKIP
                if result[3] is not None:
                    self.skip(run, suite, name, said or (result[3] if result[2] else ""))
                elif result[1]:
                    failures += 1
                    self.failed.append(f"{run}: {suite}{name}")
                else:
                    self.passed += 1
            if result:
                said = ""
            elif line.strip():
                said = line.lstrip("# ").strip()
        whole = f"{run}: {suite}".rstrip(": ")
        if reported < planned:
            self.failed += [f"{whole}: a test that never reported (exit status {returncode})"] * (planned - reported)
        elif returncode != 0 and not failures:
            self.failed.append(f"{whole}: exit status {returncode}")
        elif not reported:
            self.failed.append(f"{whole}: no test reported")

    def meson(self, run, path):
        for line in path.read_text().splitlines():
            test = json.loads(line)
            suite = MORE_SUITES.sub("", test["name"].split(":")[-1].strip())
            code = test.get("returncode") or 0
            if test["result"] == "TIMEOUT":
                code = code or "of a timeout"
            self.tap(run, f"{suite}: ", test.get("stdout") or "", code)
            self.durations.append((test.get("duration") or 0, f"{run}: {suite}"))

    def junit(self, run, path):
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            suite, name = case.get("classname", "").rpartition(".")[2] + ".", case.get("name")
            skipped = case.find("skipped")
            if skipped is not None:
                self.skip(run, suite, name, skipped.get("message", ""))
            elif case.find("failure") is not None or case.find("error") is not None:
                self.failed.append(f"{run}: {suite}{name}")
            else:
                self.passed += 1
            self.durations.append((float(case.get("time") or 0), f"{run}: {suite}{name}"))

    def read(self, path, platform):
        if path.suffix == ".tap":
            self.tap(f"{platform}check", "", path.read_text())
        elif path.suffix == ".json":
            self.meson(platform + path.stem, path)
        elif path.suffix == ".xml":
            self.junit(platform + path.stem, path)
        else:
            return False
        return True


def gather(pairs):
    """(key, value)… to {values of a key: keys with these values}, all in the order in which they came."""
    values, keys = {}, {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    for key, found in values.items():
        keys.setdefault(tuple(found), []).append(key)
    return keys


def told(skipped):
    """Lines that name each skipped test once: those of the same runs and suite together, and the variants of tests
    that were skipped in the same ones."""
    for runs, tests in gather(((suite, name), run) for run, suite, name in skipped).items():
        suites = {}
        for suite, name in tests:
            suites.setdefault(suite, []).append((name, "") if not VARIANT.match(name) else VARIANT.match(name).groups())
        for suite, names in suites.items():
            for variants, tests in gather(names).items():
                variants = ", ".join(filter(None, variants))
                yield f"{', '.join(runs)}: {suite}{', '.join(tests)}{variants and f' ({variants})'}"


def main(arguments):
    tally = Tally()
    for place in filter(lambda argument: argument != "--durations", arguments):
        platform, _, directory = place.rpartition("=")
        paths = sorted(pathlib.Path(directory).glob("*"))
        if not sum([tally.read(path, platform and f"{platform}: ") for path in paths]):
            tally.failed.append(f"{platform or 'check'}: left no results")
    if "--durations" in arguments:
        for seconds, name in sorted(tally.durations, reverse=True)[:SLOWEST]:
            print(f"{seconds:6.1f} s  {name}")
    for name in tally.failed:
        print(f"failed: {name}")
    for reason, skipped in sorted(tally.skipped.items()):
        print(f"skipped, {len(skipped)}: {reason}")
        for line in told(skipped):
            print(textwrap.fill(line, COLUMNS, initial_indent="    ", subsequent_indent="        ",
                                break_long_words=False, break_on_hyphens=False))
    skipped = sum(map(len, tally.skipped.values()))
    print(f"{tally.passed} passed, {len(tally.failed)} failed, {skipped} skipped")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
