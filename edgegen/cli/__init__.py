"""The command line: a file for each command with what it shows, on top of the functions of `edgegen`."""

from edgegen.cli.main import app as app
from edgegen.cli.main import main as main
from edgegen.cli.main import run as run
