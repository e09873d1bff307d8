// Sums in G1 of BN254 by gnark-crypto, for benchmarks/native_kernels.py.
//
// Build it in a folder of its own:
//
//	go mod init kernels && go get github.com/consensys/gnark-crypto@e07d4d57dbc4 && go build -o gnark .
//
// Arguments: a file of points (64 bytes each, as the EVM has them), a file of scalars (32 bytes,
// big-endian), their number, threads, runs. Prints {"ms": [...], "sum": hexadecimal}.
// With one argument, a number of steps, it does what field.cpp does.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/consensys/gnark-crypto/ecc"
	"github.com/consensys/gnark-crypto/ecc/bn254"
	"github.com/consensys/gnark-crypto/ecc/bn254/fr"
)

func main() {
	if len(os.Args) == 2 {
		field(integer(os.Args[1]))
		return
	}
	points, scalars := read(os.Args[1]), read(os.Args[2])
	n, threads, runs := integer(os.Args[3]), integer(os.Args[4]), integer(os.Args[5])
	bases, factors := make([]bn254.G1Affine, n), make([]fr.Element, n)
	for i := range bases {
		bases[i].X.SetBytes(points[64*i : 64*i+32])
		bases[i].Y.SetBytes(points[64*i+32 : 64*i+64])
		factors[i].SetBytes(scalars[32*i : 32*i+32])
	}
	var sum bn254.G1Affine
	times := []float64{}
	for range runs {
		started := time.Now()
		_, err := sum.MultiExp(bases, factors, ecc.MultiExpConfig{NbTasks: threads})
		check(err)
		times = append(times, float64(time.Since(started).Nanoseconds())/1e6)
	}
	x, y := sum.X.Bytes(), sum.Y.Bytes()
	text := hex.EncodeToString(append(x[:], y[:]...))
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"ms": times, "sum": text}))
}

func field(steps int) {
	var factor, x fr.Element
	factor.SetUint64(5)
	x.SetUint64(3)
	chain := nanosecondsEach(steps, func() {
		for range steps {
			x.Mul(&x, &factor)
		}
	})
	var lanes [8]fr.Element
	for j := range lanes {
		lanes[j].SetUint64(uint64(7 + j))
	}
	sideBySide := nanosecondsEach(steps, func() {
		for range steps / 8 {
			for j := range lanes {
				lanes[j].Mul(&lanes[j], &factor)
			}
		}
	})
	for j := range lanes {
		x.Add(&x, &lanes[j])
	}
	inverse := nanosecondsEach(steps/256, func() {
		for range steps / 256 {
			x.Inverse(&x)
			x.Add(&x, &factor)
		}
	})
	bytes := x.Bytes()
	fmt.Printf("{\"chain\": %.3f, \"side by side\": %.3f, \"inverse\": %.1f, \"result\": %q}\n",
		chain, sideBySide, inverse, hex.EncodeToString(bytes[:]))
}

func nanosecondsEach(operations int, work func()) float64 {
	started := time.Now()
	work()
	return float64(time.Since(started).Nanoseconds()) / float64(operations)
}

func read(path string) []byte {
	data, err := os.ReadFile(path)
	check(err)
	return data
}

func integer(text string) int {
	value, err := strconv.Atoi(text)
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
