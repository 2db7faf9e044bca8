"""What checks the package's annotations in every test: beartype, with an int where a float is asked for, as
the language has it."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
