"""The tests, in the folders of what they test. Helpers are imported from here: `from tests.helpers import runs`."""
