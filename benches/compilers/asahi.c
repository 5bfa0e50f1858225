/* An Apple GPU that is not there, for Honeykrisp (Mesa's driver): see absent.h.
 *
 *   cc -shared -fPIC -o asahi.so asahi.c -ldl
 *
 * GPU_CHIPSET, in hexadecimal, says which chip: 8103 for the M1, 6000, 6001 and 6002 for its Pro, Max and Ultra; 8112 for the M2,
 * 6020, 6021 and 6022 for its. GPU_PCI is not asked for: these GPUs are not on a PCI bus. */
#define _GNU_SOURCE
#define DRIVER "asahi"
#define VENDOR 0
#include "absent.h"

/* Its calls, by their numbers in asahi_drm.h. */
enum { PARAMETERS = 0x00, TIME = 0x01, VM_CREATE = 0x02, VM_DESTROY = 0x03, VM_BIND = 0x04, ALLOCATE = 0x05, MAP = 0x06,
       BIND_OBJECT = 0x07, QUEUE_CREATE = 0x08, QUEUE_DESTROY = 0x09, SUBMIT = 0x0a };

static int parameters(void *args) {
    struct { uint32_t group, pad; uint64_t pointer, size; } *asked = args;
    /* The last digit but one is zero of every M1, the last of those of more than one cluster says how large they are. */
    const uint32_t chip = setting("GPU_CHIPSET"), is_m1 = !(chip >> 4 & 0xf), is_small = chip >> 8 == 0x81, size = chip & 3;
    struct {
        uint64_t features;
        uint32_t generation, variant, revision, chip, dies, clusters, cores, kilohertz;
        uint64_t masks[64], from, to, kernel;
        uint32_t commands, attachments;
        uint64_t hertz;
    } known = {
        .features = 1, /* loads beyond memory give zeros, as Linux sets them up: the compiler may load early */
        .generation = is_m1 ? 13 : 14, .variant = is_small ? 'G' : "SCD"[size], .revision = 0x10, .chip = chip,
        .dies = !is_small && size == 2 ? 2 : 1, .clusters = is_small ? 1 : 2 << size, .cores = is_m1 ? 8 : 10,
        .kilohertz = 1296000, .from = 0x4000, .to = 1ull << 39, .kernel = 1ull << 29, .commands = 64, .attachments = 16,
        .hertz = 1000000000};
    for (uint32_t i = 0; i < known.clusters; i++) known.masks[i] = (1 << known.cores) - 1;
    memcpy((void *)asked->pointer, &known, asked->size < sizeof known ? asked->size : sizeof known);
    return 0;
}
/* A block's handle says where in the file it lies, in 64 KiB. */
static int allocate(void *args) {
    struct { uint64_t size; uint32_t flags, vm, handle, pad; } *block = args;
    block->handle = new_memory(block->size) >> 16;
    return 0;
}
static int map(void *args) {
    struct { uint32_t handle, flags; uint64_t offset; } *block = args;
    block->offset = (uint64_t)block->handle << 16;
    return 0;
}
static int submit(void *args) {
    struct { uint64_t syncs, commands; uint32_t flags, queue, waits, signals; } *s = args;
    struct { uint32_t is_timeline, handle; uint64_t value; } *done = (void *)s->syncs;
    done += s->waits; /* what it waits for comes first */
    for (uint32_t i = 0; i < s->signals; i++) signal_done(done[i].handle, done[i].is_timeline ? done[i].value : 1);
    return 0;
}

static int command(unsigned number, void *args) {
    uint32_t *words = args;
    switch (number) {
    case PARAMETERS: return parameters(args);
    case TIME: ((uint64_t *)args)[1] = 1; return 0;
    case VM_CREATE: words[4] = 1; return 0;
    case ALLOCATE: return allocate(args);
    case MAP: return map(args);
    case BIND_OBJECT: words[8] = 1; return 0;
    case QUEUE_CREATE: words[3] = 1; return 0;
    case SUBMIT: return submit(args);
    case VM_DESTROY: case VM_BIND: case QUEUE_DESTROY: return 0;
    default: return fails();
    }
}
