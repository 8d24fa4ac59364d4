"""From a unit to a checked library in this process: compile, keep, load.

========================= =======================================================
`toolchain`               nvcc, its host compiler and the CUTLASS headers of this machine
`keys`                    what decides which library it is: digests of everything that goes in
`nvcc_run`                one run of nvcc under a time limit, with its time and memory
`entries`                 a library in a folder with the record that proves it whole
`maker`                   make it now, make many, in this process
`background`              make it while another kernel serves
`state`                   built, prebuilt, building, failed, missing, impossible
`library`                 load it, check it, prove it on the GPU
========================= =======================================================
"""
