"""What a timeline of `tandem … --trace FILE` says of overlap: timeline.py FILE. For each size of step the medians: how long
it took, how long each device was at work in it, that time as a share of both together (1: one after the other; 0.5: both
busy all the time), how often the CPU waited for the device and for how long."""
import collections
import json
import statistics
import sys

IDLE = ("handing over", "waiting for experts")  # of the CPU, as far as overlap goes


def within(spans, first, last):
    return [span for span in spans if first <= span["ts"] and span["ts"] + span["dur"] <= last]


def busy_ms(spans):
    return sum(span["dur"] for span in spans) / 1e3


events = json.load(open(sys.argv[1], encoding="ascii"))
names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
tracks = collections.defaultdict(list)
for event in events:
    if event["ph"] == "X":
        tracks[names[event["tid"]]].append(event)

sizes = collections.defaultdict(list)
for step in tracks["steps"]:
    cpu = within(tracks["CPU"], step["ts"], step["ts"] + step["dur"])
    device = busy_ms(within(tracks["OpenCL device"], step["ts"], step["ts"] + step["dur"]))
    work = busy_ms(span for span in cpu if span["name"] not in IDLE)
    waits = [span for span in cpu if span["name"] == "waiting for experts"]
    whole = step["dur"] / 1e3
    sizes[step["args"]["rows"]].append((whole, work, device, whole / (work + device), len(waits), busy_ms(waits)))

print(" rows  steps   step ms    CPU ms  device ms  share of both  waits  waiting ms")
for rows, steps in sorted(sizes.items()):
    print("{:5} {:6} {:9.2f} {:9.2f} {:10.2f} {:14.2f} {:6.0f} {:11.2f}".format(
        rows, len(steps), *(statistics.median(column) for column in zip(*steps))))
