// Where a pixel is in its image, kept from one step to the next without a division. The importing shader declares params.
struct PixelPlace {
    h: u32,
    w: u32,
}

fn pixel_place(pixel: u32) -> PixelPlace {
    return PixelPlace(pixel / params.width % params.height, pixel % params.width);
}

// So many pixels further on, of this image or the next, as pixel_place has them.
fn advance(from_place: PixelPlace, by: PixelPlace) -> PixelPlace {
    var to = PixelPlace(from_place.h + by.h, from_place.w + by.w);
    if (to.w >= params.width) {
        to.w -= params.width;
        to.h++;
    }
    if (to.h >= params.height) {
        to.h -= params.height;
    }
    return to;
}
