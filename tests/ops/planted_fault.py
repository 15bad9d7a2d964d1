"""Runs one check of kernel_checks with an emulated library: python planted_fault.py LIBRARY CHECK [ARGUMENT...].

Ends with 0 where it passes in every order, with 1 where it fails. In a process of its own, because the operators of two
libraries cannot live in one. Arguments are literals; the name of a half-precision dtype is that dtype.
"""

import ast
import sys

import emulated
import kernel_checks
import torch

ORDERS = range(4)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def argument(text):
    value = ast.literal_eval(text)
    return DTYPES[value] if isinstance(value, str) and value in DTYPES else value


def main(library, check, *arguments):
    emulated_library = emulated.load(library)
    for order in ORDERS:
        emulated_library.tmt_emulation_set_order(order)
        getattr(kernel_checks, check)(torch.ops.tmt_emulated, torch.device("cpu"), *arguments)


if __name__ == "__main__":
    main(sys.argv[1], *map(argument, sys.argv[2:]))
