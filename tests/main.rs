//! All integration tests in one binary, because each binary links candle.

mod cli;
mod fuzz;
mod parity;
mod pixels;
mod text;
mod train;
mod tune;
