"""A voltage table to a page: the supply that each network needs on an SRAM of yours.

    python examples/voltage_table.py [TABLE.csv]     # writes voltage-table/index.html

The table has columns v_dd (V), energy_per_bit_j (J an access) and bit_error_rate; the one used
without an argument is made up.
"""

import sys
from pathlib import Path

import joulewise as jw
from joulewise.report import write_study

TABLE = """# made up
v_dd,energy_per_bit_j,bit_error_rate
0.50,1.24e-14,6.0e-3
0.55,1.50e-14,9.0e-4
0.60,1.78e-14,1.0e-4
0.65,2.09e-14,1.0e-5
0.70,2.42e-14,1.0e-6
0.80,3.17e-14,1.0e-9
"""
STUDY = """
question: What supply does each network need on this SRAM?
models: [mlp, cnn]
training: [{{method: sgd, epochs: {epochs}, lr: 0.1}}]
memories:
  - {{kind: sram, label: this SRAM, law: "{table}", v_nominal: 0.9, knob: v_dd, fault: flip,
     per_channel: true}}
drops: [1pp]
goals: [drop=1pp]
granularities: [network, tensor]
chips: {chips}
seeds: [0]
"""


def main(folder: Path, given: str | None = None, *, epochs: int = 8, chips: int = 30) -> None:
    folder.mkdir(exist_ok=True)
    table = folder / "table.csv"
    table.write_text(TABLE if given is None else Path(given).read_text())
    file = folder / "study.yaml"
    file.write_text(STUDY.format(table=table.resolve(), epochs=epochs, chips=chips))
    study = jw.Study.create(file, folder / "records")
    failed = study.run(report=lambda state: print(f"{state.done} of {state.total} trials"))
    for cause in failed.values():
        print(f"a trial failed: {cause}")
    write_study(study, folder / "index.html")
    for trial, record in study.records():
        if record.kind == "allocate":
            (row,) = record.rows()
            name = f"{study.file.models[trial.model].name}, {row['granularity']}"
            energy = f"{row['memory_j'] * 1e9:.1f} nJ of memory an inference"
            print(f"{name}: {energy}, holds: {row['holds']}")
            for tensor, point in record.result["allocation"]["plan"].items():
                print(f"  {tensor}: {point['v_dd']:.3f} V")
    print(f"the page: {folder / 'index.html'}")


if __name__ == "__main__":
    try:
        main(Path("voltage-table"), *sys.argv[1:2])
    except (jw.JoulewiseError, OSError, UnicodeDecodeError) as error:  # such as a wrong table
        sys.exit(f"voltage_table: {error}")
