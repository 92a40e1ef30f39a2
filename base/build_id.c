#include "base/build_id.h"

#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static size_t aligned(size_t bytes) {
    return (bytes + 3) & ~(size_t)3;
}

// A segment of notes: each has a head, its owner's name, and what it says.
static void read_notes(const unsigned char *at, size_t left, char out[BUILD_ID_BYTES]) {
    ElfW(Nhdr) head;
    while (left >= sizeof head) {
        memcpy(&head, at, sizeof head);
        size_t name = sizeof head, text = name + aligned(head.n_namesz), end = text + aligned(head.n_descsz);
        if (end > left) return;
        if (head.n_type == NT_GNU_BUILD_ID && head.n_namesz == sizeof "GNU" && memcmp(at + name, "GNU", 4) == 0)
            for (size_t i = 0; i < head.n_descsz && i < (BUILD_ID_BYTES - 1) / 2; i++)
                snprintf(out + 2 * i, 3, "%02x", at[text + i]);
        at += end;
        left -= end;
    }
}

struct search {
    uintptr_t address;
    char *out;
};

// One object after the other, the program or a library, until it is the one.
static int read_object(struct dl_phdr_info *info, size_t bytes, void *user) {
    const struct search *search = user;
    bool here = false;
    (void)bytes;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t at = search->address - (uintptr_t)(info->dlpi_addr + segment->p_vaddr);
        here |= segment->p_type == PT_LOAD && at < segment->p_memsz;
    }
    for (int i = 0; here && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_NOTE)
            read_notes((const unsigned char *)(info->dlpi_addr + segment->p_vaddr), segment->p_memsz, search->out);
    }
    return here;
}

void build_id_of(uintptr_t address, char out[BUILD_ID_BYTES]) {
    struct search search = {address, out};
    out[0] = '\0';
    dl_iterate_phdr(read_object, &search);
}

void build_id(char out[BUILD_ID_BYTES]) {
    build_id_of((uintptr_t)build_id, out);
}
