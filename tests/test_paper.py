"""The paper's numbers stand in one place."""

from pathlib import Path

from pinnerformer_jax.studies import paper

PACKAGE = Path(paper.__file__).parent.parent


def recalls():
    tables = [value for name, value in vars(paper).items() if name.startswith("TABLE_")]
    numbers = [n for table in tables for line in table.values() for n in line if n is not None]
    return {f"{n:.3f}" for n in [*numbers, *paper.FINAL] if n > 0.13}


def test_no_other_file_spells_them():
    found = {
        (path.name, number)
        for path in PACKAGE.rglob("*.py")
        if path != Path(paper.__file__)
        for number in recalls()
        if number in path.read_text(encoding="utf-8")
    }
    assert found == set()


def test_what_several_tables_say_of_the_final_model_agrees():
    assert paper.TABLE_1["PinnerFormer"][0] == paper.TABLE_2["PinnerFormer"][0] == paper.FINAL[0]
    assert paper.TABLE_3["SASRec"][0] == paper.TABLE_2["SASRec"][0] == [*paper.TABLE_10.values()][-1][0]
