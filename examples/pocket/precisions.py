"""How many texts about pictures that training never saw change with the precision of `describe`, and how many answers are right.

    python precisions.py PROGRAM         # needs numpy and Pillow only

float32 is what transformers computes; evaluate.py shows that.
"""

import argparse
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pictures

HERE = Path(__file__).parent


def main(program, count, folder):
    with tempfile.TemporaryDirectory() as place:
        asked = []
        for index, (_, image, question) in enumerate(pictures.held_out(count)):
            path = f"{place}/{index}.png"
            image.save(path)
            asked.append((path, question))

        def answers(precision):
            def one(pair):
                command = [program, "--quiet", "--threads", "1", "--precision", precision, "--model", folder]
                done = subprocess.run([*command, "--image", pair[0], pair[1].text], capture_output=True, text=True, check=True)
                return done.stdout.strip()

            with ThreadPoolExecutor(2) as pool:
                return list(pool.map(one, asked))

        exact = answers("f32")
        for precision in ("f32", "int16", "bf16", "int8"):
            found = exact if precision == "f32" else answers(precision)
            right = sum(text == question.answer for text, (_, question) in zip(found, asked))
            same = sum(text == other for text, other in zip(found, exact))
            print(f"{precision:6} {same} of {count} texts as in float32, {right} answers right", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="path of describe")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--model", default=str(HERE / "model-nf4"))
    arguments = parser.parse_args()
    main(arguments.program, arguments.pictures, arguments.model)
