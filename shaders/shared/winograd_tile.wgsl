// Where a tile of TILE x TILE outputs lies. The importing shader declares params with tile_rows, tile_cols and tile_first, the
// first tile of its range.
struct TilePlace {
    image: u32,
    h0: u32,
    w0: u32,
}

fn place_of(local_tile: u32) -> TilePlace {
    let tile = params.tile_first + local_tile;
    let row = tile / params.tile_cols;
    return TilePlace(row / params.tile_rows, row % params.tile_rows * TILE, tile % params.tile_cols * TILE);
}
