"""join.py OUT.json OUT.md HEAD PIECE.json…: one table of the pieces that `bench -o json` printed; lines that are in several (the limits) once."""

import json
import os
import sys


def cells(line):
    value = line["value"]
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    share, error, spread = line["share"], line["error"], line["spread"]
    return [line["bench"], line["policy"], str(line["threads"]), f"{value:.{digits}f}", line["unit"],
            "" if share is None else f"{100 * share:.0f} %", line["limit"] or "", "" if error is None else f"{error:.1e}",
            "" if spread is None else f"±{50 * spread:.0f} %"]  # fmt: skip


def main(out, table, head, pieces):
    lines = {}
    for piece in pieces:
        with open(piece) as file:
            for line in json.load(file):
                key = line["bench"], line["policy"]
                if key not in lines or (line["share"] is None and line["value"] > lines[key]["value"]):  # the best of a limit
                    lines[key] = line
    names = ["bench", "policy", "threads", "value", "unit", "share", "limit", "error", "spread"]
    rows = [cells(line) for line in lines.values()]
    widths = [max(len(row[c]) for row in [names, *rows]) for c in range(len(names))]
    text = "".join(f"    {line}\n" for line in head.splitlines()) + "\n"
    for row in [names, ["-" * width for width in widths], *rows]:
        text += "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |\n"
    objects = ",\n".join(" " + json.dumps(line, ensure_ascii=False) for line in lines.values())
    for path, content in ((out, f"[\n{objects}\n]\n"), (table, text)):
        with open(path + ".part", "w") as file:
            file.write(content)
        os.rename(path + ".part", path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
