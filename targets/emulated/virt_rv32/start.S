# Start-up of QEMU's RISC-V `virt` machine, one hart in machine mode. With -bios none it starts at 0x80000000.
    .section .init, "ax"
    .globl clio_start
    .option arch, +zicsr
clio_start:
    csrr t0, mhartid
    bnez t0, park
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
    la sp, _stack_top
    la t0, trap
    csrw mtvec, t0
    la a0, _data_start
    la a1, _data_end
    la a2, _data_load
    call copy
    la a0, _bss_start
    la a1, _bss_end
    call zero
    la a0, _arena_start
    la a1, _arena_end
    call zero
    call main
    li a0, 1                    # main ends by board_exit
    call board_exit
park:
    wfi
    j park

# Words from a2 to a0 up to a1.
copy:
    bgeu a0, a1, 1f
    lw t0, 0(a2)
    sw t0, 0(a0)
    addi a0, a0, 4
    addi a2, a2, 4
    j copy
1:  ret

# Words from a0 up to a1.
zero:
    bgeu a0, a1, 1f
    sw zero, 0(a0)
    addi a0, a0, 4
    j zero
1:  ret

    .balign 4
trap:
    la sp, _stack_top           # the old one may be what went wrong
    csrr a0, mcause
    call board_trap
    j park
