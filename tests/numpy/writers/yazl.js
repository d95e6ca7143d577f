// Writes files of the current directory into an archive, as Node programs do:
//     node yazl.js ARCHIVE [--stored] [--zip64] [--stream] NAME...
"use strict";
const fs = require("fs");
const yazl = require("yazl");

const [archive, ...rest] = process.argv.slice(2);
const flags = new Set(rest.filter((word) => word.startsWith("--")));
const options = { compress: !flags.has("--stored"), forceZip64Format: flags.has("--zip64") };
const zip = new yazl.ZipFile();
for (const name of rest.filter((word) => !word.startsWith("--"))) {
    if (flags.has("--stream")) {
        zip.addReadStream(fs.createReadStream(name), name, options);
    } else {
        zip.addBuffer(fs.readFileSync(name), name, options);
    }
}
zip.outputStream.pipe(fs.createWriteStream(archive));
zip.end({ forceZip64Format: flags.has("--zip64") });
