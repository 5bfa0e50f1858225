/* An NVIDIA GPU that is not there, for NVK (Mesa's driver): see absent.h.
 *
 *   cc -shared -fPIC -o nvk.so nvk.c -ldl
 *
 * GPU_CHIPSET, GPU_CLASS and GPU_PCI, in hexadecimal, say which GPU (see statistics.py). */
#define _GNU_SOURCE
#define DRIVER "nouveau"
#define VENDOR 0x10de
#include "absent.h"

/* Its calls, by their numbers in nouveau_drm.h. */
enum { PARAMETER = 0x00, CHANNEL = 0x02, FREE_CHANNEL = 0x03, OBJECTS = 0x07, VM_INIT = 0x10, VM_BIND = 0x11, EXECUTE = 0x12,
       ALLOCATE = 0x40 };

static int parameter(uint64_t *args) {
    const uint64_t known[] = {[3] = 0x10de, [4] = identity.device, [5] = 2, [8] = 64ull << 30, [9] = 1ull << 40,
                              [11] = setting("GPU_CHIPSET"), [13] = 0x4208, [14] = 1, [17] = 390, [18] = 64ull << 30, [19] = 1 << 20};
    if (args[0] >= sizeof known / sizeof *known || !known[args[0]]) return fails();
    args[1] = known[args[0]];
    return 0;
}
static int objects(uint8_t *args) {
    uint8_t *data = args + 24;
    if (args[1] == 4 && data[1] == 0) { /* what the device is */
        uint8_t *info = data + 8;
        info[1] = 3;
        *(uint16_t *)(info + 2) = setting("GPU_CHIPSET");
        *(uint64_t *)(info + 8) = *(uint64_t *)(info + 16) = 64ull << 30;
        strcpy((char *)info + 24, "chip");
    } else if (args[1] == 1) { /* its classes */
        struct { uint8_t version, count, pad[6]; struct { int32_t class; int16_t from, to; } of[]; } *classes = (void *)data;
        const int generation = setting("GPU_CLASS") << 8;
        const int all[] = {generation | 0xb5, 0x902d, generation | 0x97, 0xa140, generation | 0xc0};
        for (int i = 0; i < 5 && i < classes->count; i++) classes->of[i].class = all[i];
        classes->count = 5;
    }
    return 0;
}
static int execute(void *args) {
    struct { uint32_t channel, pushes, waits, signals; uint64_t wait, signal, push; } *e = args;
    struct { uint32_t flags, handle; uint64_t value; } *done = (void *)e->signal;
    for (uint32_t i = 0; i < e->signals; i++) signal_done(done[i].handle, done[i].flags & 1 ? done[i].value : 1);
    return 0;
}
static int allocate(void *args) {
    struct { uint32_t handle, domain; uint64_t size, offset, map; } *block = args;
    block->handle = new_handle();
    block->offset = block->map = new_memory(block->size);
    return 0;
}

static int command(unsigned number, void *args) {
    uint32_t *words = args;
    switch (number) {
    case PARAMETER: return parameter(args);
    case CHANNEL: words[2] = 1; words[3] = 6; return 0;
    case OBJECTS: return objects(args);
    case EXECUTE: return execute(args);
    case ALLOCATE: return allocate(args);
    case FREE_CHANNEL: case VM_INIT: case VM_BIND: return 0;
    default: return fails();
    }
}
