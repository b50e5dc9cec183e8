"""Plants a bug in copies of the sources, and shows that the simulation finds each of them.

    planted_bugs.py plant NAME SOURCE_DIR OUT_DIR   writes the copies; a text that is not there once is an error
    planted_bugs.py find NAME PROGRAM               runs the simulation that was built with them, until it fails
"""
import os
import pathlib
import re
import subprocess
import sys

SEEDS = 200

# name: (the test that finds it, [(file, what stands there, what the bug makes of it)])
BUGS = {
    "acknowledge_before_fsync": ("Simulation.FaultsOfTheCoordinatorsDisk_*", [
        ("server/store/upload_segments.cc", "    if (status.ok()) status = file->Sync();\n", ""),
    ]),
    "acknowledge_before_the_row_is_synced": ("Simulation.FaultsOfTheCoordinatorsDisk_*", [
        ("server/store/sqlite.cc", 'durable ? "PRAGMA synchronous = FULL"', 'durable ? "PRAGMA synchronous = OFF"'),
    ]),
    "go_on_after_a_failed_sync": ("Simulation.FaultsOfTheCoordinatorsDisk_*", [
        ("server/store/sqlite.cc", "  if ((code & 0xff) == SQLITE_IOERR && broken_.ok()) {\n",
         "  if ((code & 0xff) == SQLITE_IOERR && !broken_.ok()) {\n"),
    ]),
    "believe_what_a_failed_sync_left": ("Simulation.FaultsOfTheCoordinatorsDisk_*", [
        ("server/store/sqlite_run_store.cc", "    QFL_RETURN_IF_ERROR(WriteAnew());\n", ""),
    ]),
    "duplicate_counted_twice": ("Simulation.FaultsOnTheNetwork_*", [
        ("server/round/machine_uploads.cc",
         '  if (At(member).last_accepted == task_id) return answer(Verdict::kAlreadyAccepted, "");\n', ""),
        ("server/round/machine_uploads.cc",
         '    case TaskState::kAccepted:\n      return answer(Verdict::kAlreadyAccepted, "");\n',
         "    case TaskState::kAccepted:\n      break;\n"),
        ("server/coordinator/engine_uploads.cc",
         "  if (note != notes_.end() && note->second.accepted) {\n    return done(",
         "  if (note == notes_.end() && note->second.accepted) {\n    return done("),
    ]),
    "deadline_ignored": ("Simulation.ClientsThatVanish_*", [
        ("server/round/round_machine.cc", '  CloseRound("deadline");\n', ""),
    ]),
}


def plant(name, source, out):
    texts = {}
    for file, right, wrong in BUGS[name][1]:
        text = texts.get(file) or (source / file).read_text()
        if text.count(right) != 1:
            sys.exit(f"{file}: what {name} replaces stands there {text.count(right)} times, expected once:\n{right}")
        texts[file] = text.replace(right, wrong)
    for file, text in texts.items():
        path = out / pathlib.Path(file).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def find(name, program):
    done = subprocess.run([program, f"--gtest_filter={BUGS[name][0]}"], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, errors="replace",
                          env={**os.environ, "QUANTFL_SIM_SEEDS": str(SEEDS)})
    found = re.search(r"simulation_test --seed=(\d+)", done.stdout)
    if done.returncode == 0:
        sys.exit(f"{name}: {SEEDS} seeds did not find it")
    symptom = next((line.strip() for line in done.stdout.splitlines() if "Actual: {" in line or "CHECK" in line), "")
    print(f"{name}: found by seed {found.group(1) if found else '?'}  {symptom[:300]}")


if __name__ == "__main__":
    if sys.argv[1] == "names":
        print(";".join(f"{name}={','.join(dict.fromkeys(f for f, _, _ in edits))}"
                       for name, (_, edits) in BUGS.items()), end="")
    elif sys.argv[1] == "plant":
        plant(sys.argv[2], pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4]))
    else:
        find(sys.argv[2], sys.argv[3])
