#include "sweep/gallery_assets.h"

/* The page's files as they are; paths from the root of the source tree, where make runs. */
__asm__(".section .rodata\n"
        ".balign 16\n"
        ".globl gallery_html\ngallery_html:\n.incbin \"src/sweep/gallery/index.html\"\n.byte 0\n"
        ".globl gallery_css\ngallery_css:\n.incbin \"src/sweep/gallery/gallery.css\"\n.byte 0\n"
        ".globl gallery_js\ngallery_js:\n.incbin \"src/sweep/gallery/gallery.js\"\n.byte 0\n"
        ".previous\n");
