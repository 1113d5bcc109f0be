"""Parts of CPython's C API that the compiled modules need and Cython's own declarations lack."""

from cpython.object cimport PyObject


cdef extern from "Python.h":
    bint PyCFunction_Check(object function)
    PyObject *PyCFunction_GET_SELF(object function)

    # True for every ASCII str whose bytes can be read in place; its size in bytes is then also its length.
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    unsigned char *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    str PyUnicode_Substring(object text, Py_ssize_t start, Py_ssize_t end)
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 highest)

    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object number) except? 0xFFFFFFFFFFFFFFFF

    enum:
        Py_DTSF_ADD_DOT_0
    char *PyOS_double_to_string(double value, char code, int precision, int flags, int *kind) except NULL
