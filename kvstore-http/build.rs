//! Extracts the two files of Swagger UI that `/docs` serves from the archive in a crate, without
//! recompressing them.

use std::io::{Cursor, Read as _};
use std::path::Path;
use std::{env, fs};

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))
        .expect("the vendored file is a zip archive");
    for (wanted, name) in [
        ("/dist/swagger-ui-bundle.js", "swagger-ui.js.gz"),
        ("/dist/swagger-ui.css", "swagger-ui.css.gz"),
    ] {
        let number = (0..archive.len())
            .find(|number| {
                let found = archive.name_for_index(*number);
                found.is_some_and(|found| found.ends_with(wanted))
            })
            .unwrap_or_else(|| panic!("{wanted} is not in the archive"));
        let gzipped = gzip(&mut archive, number);
        fs::write(Path::new(&folder).join(name), gzipped).expect("OUT_DIR is writable");
    }
}

/// Returns the file in gzip format: the same compressed bytes between another header and trailer
/// (RFC 1952).
fn gzip(archive: &mut ZipArchive<Cursor<&[u8]>>, number: usize) -> Vec<u8> {
    let mut file = archive
        .by_index_raw(number)
        .expect("the file is in the archive");
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255];
    file.read_to_end(&mut bytes)
        .expect("the archive is complete");
    let compressed = bytes.len() as u64 - 10;
    assert_eq!(compressed, file.compressed_size(), "the file is complete");
    assert!(compressed < file.size(), "the file is compressed");
    bytes.extend(file.crc32().to_le_bytes());
    bytes.extend(
        u32::try_from(file.size())
            .expect("the size fits in u32")
            .to_le_bytes(),
    );
    bytes
}
