/* The page of a gallery (src/sweep/gallery/), as texts in the program. */
#ifndef SWEEP_GALLERY_ASSETS_H
#define SWEEP_GALLERY_ASSETS_H

extern const char gallery_html[], gallery_css[], gallery_js[];

#endif
