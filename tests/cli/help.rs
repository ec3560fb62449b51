//! The command line's own description of itself.

use super::Sandbox;

#[test]
fn short_help() {
    let sandbox = Sandbox::new();
    let help = |args: &[&str]| String::from_utf8(sandbox.run(args).code(0).stdout).unwrap();
    assert!(help(&["--version"]).starts_with("clip-cli "));
    insta::assert_snapshot!(help(&["embed", "-h"]), @r#"
    Turn images and texts into embeddings

    Usage: clip-cli embed [OPTIONS] [INPUTS]...

    Arguments:
      [INPUTS]...  Images; folders, which are searched for images; patterns ('shards/{000..012}.tar',
                   'photos/**/*.jpg'); files with many images (see --input-format); `-` for a list of
                   files on standard input

    Options:
      -0, --null            Lists end their entries with a NUL byte, as `find -print0` writes them
          --text <TEXT>     A text to embed; may be given many times
          --texts <FILE>    A file with one text a line, `-` for standard input
      -m, --model <MODEL>   The model: a directory, a .safetensors file with its configuration beside
                            it, an alias, or org/name [default: the built-in model]
          --image-size <N>  Give the image tower inputs of N×N pixels; positions are interpolated
      -h, --help            Print help (see more with '--help')

    Inputs:
          --input-format <FORMAT>  What files with many images are [default: by their names]: list
                                   (paths of images, one a line); csv (a table with a header: paths,
                                   captions); tsv (the same with tabs); jsonl (records with a path and
                                   captions, one a line); parquet (columns of images or paths,
                                   captions, labels); tar (webdataset: KEY.jpg, KEY.txt, KEY.json,
                                   KEY.cls); npy (pixels: bytes of shape (N, height, width, 3) or (N,
                                   3, height, width))
          --image-key <NAME>       The column with images or paths, the extension of images in
                                   archives; several with `;` in between, the first that is there
                                   counts
          --caption-key <NAME>     The same for captions
          --id-key <NAME>          The column, or field of JSON members, that gives the ids [default:
                                   the image's path, else `file#row`]
          --image-root <DIR>       Where relative paths in tables start [default: the table's folder]
          --csv-separator <CHAR>   What stands between the cells of a table [default: what its header
                                   has]
          --pairs                  Embed the inputs' captions, too: after each image its captions,
                                   under the same id
          --captions               Embed the inputs' captions instead of their images

    Tokens:
          --layer <N>    Read tokens as this block leaves them: 1 is the first, -1 the last, 0 what
                         enters the first
          --tokens       Write every token of an item, not one vector
          --pool <POOL>  How tokens become one vector [default: cls, or mean for images without a
                         class token] [possible values: cls, mean, max, first, last]
          --final-norm   Apply the tower's last layer norm to each token
          --project      Map tokens into the space of the embeddings: the last layer, normed and
                         projected

    Output:
      -o, --output <FILE>         Where to write, `-` for standard output [default: -]
          --format <FORMAT>       jsonl, npy, safetensors, parquet, csv, tsv, clip-retrieval or
                                  projector [default: by the output's name, else jsonl]
          --normalize             Scale vectors to unit length (the default, but for tokens)
          --no-normalize          Write vectors as the model gives them
          --output-dtype <DTYPE>  The kind of numbers to write [default: f32] [possible values: f32,
                                  f16]
          --resume                Go on with an output whose run ended early; begin it if there is
                                  none
          --skip-existing         Embed only what the output does not hold yet, and add it
          --shard <I/N>           Embed part I of N of the items; the output is called
                                  NAME-0000I-of-0000N, and `merge` joins all of them

    Reading:
          --batch-size <N>  How many items the model sees at once: auto, or a number. Results do not
                            depend on it [default: auto]
          --workers <N>     How many threads decode images [default: as many as --threads]. Results do
                            not depend on it
          --exif            Turn images as their EXIF orientation says (the references do not)
          --max-pixels <N>  Refuse images of more pixels, which could exhaust memory [default:
                            178956970]

    Global options:
          --device <DEVICE>  Where to compute: auto, cpu, cuda[:N] or metal [default: auto]
          --precision <HOW>  The numbers to compute with: auto, f32, int8 (faster, on the CPU), f16 or
                             bf16 (on GPUs) [default: auto]
          --threads <N>      How many threads compute [default: the processors that this process may
                             use]
          --offline          Never use the network
      -q, --quiet            Say nothing but errors
      -v, --verbose...       Say more: what was chosen, which items failed; twice for the libraries'
                             logs

    Each JSON Lines record is {"id","kind","embedding","dim","model"}. An item that fails becomes
    {"id","error":{"kind","message"}}; the others go on, and the exit code is 1. Inputs come before
    texts, each in the order in which they were given.

    Tables (.csv, .tsv, .jsonl, .parquet) name their images in a column called image, path, filepath
    and the like, or hold their bytes; archives (.tar, .tar.gz) are webdataset's. --pairs and
    --captions read captions from a column, from KEY.txt or KEY.json, or for image files from the
    .txt file beside each. docs/inputs.md has an example of every kind.

    Examples:
      clip-cli embed cat.jpg photos/ > photos.jsonl
      find . -name '*.png' -print0 | clip-cli embed -0 - --output pngs.npy
      clip-cli embed pairs.csv --pairs > pairs.jsonl
      clip-cli embed 'shards/{00..01}.tar' --output shards.npy
      clip-cli embed --text 'a photo of a dog' --text 'a photo of a cat'
      clip-cli embed --texts captions.txt --model path/to/checkpoint --output captions.safetensors
      clip-cli embed cat.jpg --model path/to/checkpoint --layer -2 --pool mean
      clip-cli embed photos/ --model path/to/checkpoint --tokens --output patches.npy
    "#);
}

#[test]
fn no_line_is_wider_than_a_terminal() {
    let sandbox = Sandbox::new();
    for entry in clip_cli::commands::COMMANDS {
        let help = String::from_utf8(sandbox.run(&[entry.name, "--help"]).code(0).stdout).unwrap();
        for line in help.lines() {
            assert!(line.chars().count() <= 98, "{}: {line}", entry.name);
        }
        assert!(help.contains("Examples:"), "{} has no examples", entry.name);
    }
}

#[test]
fn no_command_shows_the_help() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run::<&str>(&[]).code(2);
    assert!(ran.stderr.contains("Usage: clip-cli"), "{}", ran.stderr);
    assert!(sandbox.run(&["embd"]).code(2).stderr.contains("a similar subcommand exists: 'embed'"));
}
