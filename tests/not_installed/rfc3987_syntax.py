"""Found before the installed package, and fails as if there were none.

jsonschema imports rfc3987_syntax wherever it is installed, for international addresses, which no
test is about. That takes two seconds in each process: Jupyter servers, nbconvert, papermill.
"""

raise ImportError("left out of tests, as importing it takes two seconds")
