//! Certificates for tests of TLS.

use tempfile::TempDir;

use crate::tool;

/// Creates an authority (`ca.crt`, `ca.key`), and a certificate signed by it (`NAME.crt`,
/// `NAME.key`) for each of `names`, which come with the alternative names that it is for.
pub fn certificates(names: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let ended = tool("openssl")
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(ended.status.success(), "{ended:?}");
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {new} -keyout ca.key -out ca.crt -subj /CN=authority -days 2"
    ));
    for (name, alternative) in names {
        let extension = folder.path().join("extension");
        std::fs::write(extension, format!("subjectAltName={alternative}\n")).unwrap();
        openssl(&format!(
            "req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile extension"
        ));
    }
    folder
}
