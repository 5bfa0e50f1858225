// Where a pixel is in its image, kept from one step to the next without a division. The importing shader declares params.
struct Place {
    h: u32,
    w: u32,
}

fn place_of(pixel: u32) -> Place {
    return Place(pixel / params.width % params.height, pixel % params.width);
}

// So many pixels further on, of this image or the next, as place_of has them.
fn advance(from_place: Place, by: Place) -> Place {
    var to = Place(from_place.h + by.h, from_place.w + by.w);
    if (to.w >= params.width) {
        to.w -= params.width;
        to.h++;
    }
    if (to.h >= params.height) {
        to.h -= params.height;
    }
    return to;
}
