// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    P,
    Q,
    addGenerator,
    addMultiples,
    draws,
    finalRounds,
    inputDigest,
    inputSum,
    mainRounds,
    multiplierWords,
    outputWords,
    pairingHolds,
    powerSum,
    reserve,
    scalars,
    weightsDigest
} from "../../src/native/NativeProof.sol";
import {Test} from "../base/Test.sol";

/// @dev Gives calldata and memory to the functions of the library. Each call begins with memory of its own.
contract Machine {
    uint256 private constant END = 0x4000;
    uint256 private constant TO = 0x1000;
    uint256 private constant SCRATCH = 0x2000;

    function draw(bytes calldata message, uint256 count) external pure returns (uint256[] memory) {
        reserve(END);
        draws(_at(message), message.length, TO, count, 0);
        return _words(count);
    }

    function copyScalars(bytes calldata data) external pure returns (bool ok, uint256[] memory words) {
        reserve(END);
        ok = scalars(_at(data), data.length / 32, TO);
        words = _words(data.length / 32);
    }

    function copyMultipliers(bytes calldata data) external pure returns (bool ok, uint256[] memory words) {
        reserve(END);
        ok = multiplierWords(_at(data), data.length / 4, TO);
        words = _words(data.length / 4);
    }

    function copyOutputs(int256[] calldata outputs) external pure returns (bool ok) {
        reserve(END);
        ok = outputWords(outputs, TO);
    }

    function weights(bytes calldata points, bytes calldata multipliers)
        external
        pure
        returns (bytes32 digest, bool ok)
    {
        return
            weightsDigest(_at(points), points.length / 64, _at(multipliers), multipliers.length / 4, SCRATCH);
    }

    function input(bytes calldata point) external pure returns (bytes32 digest, bool ok) {
        return inputDigest(_at(point), SCRATCH);
    }

    function sum(bytes calldata data, uint256 width, uint256 x) external pure returns (uint256) {
        assembly ("memory-safe") {
            mstore(0, x)
        }
        return inputSum(_at(data), data.length / width, width, 0);
    }

    function powers(uint256 base, bytes calldata weighted)
        external
        pure
        returns (uint256 total, uint256[] memory words)
    {
        reserve(END);
        uint256 count = weighted.length / 32;
        assembly ("memory-safe") {
            mstore(0, base)
            calldatacopy(SCRATCH, weighted.offset, weighted.length)
        }
        total = powerSum(0, count, SCRATCH, TO);
        words = _words(count + 1);
    }

    function first(bytes calldata messages, uint256 rounds)
        external
        pure
        returns (uint256 claim, bool ok, uint256[] memory challenges)
    {
        reserve(END);
        (claim, ok) = mainRounds(_at(messages), rounds, TO, 0);
        challenges = _words(rounds);
    }

    function second(uint256 claim, bytes calldata messages, uint256 rounds)
        external
        pure
        returns (uint256 result, bool ok, uint256[] memory challenges)
    {
        reserve(END);
        (result, ok) = finalRounds(claim, _at(messages), rounds, TO, 0);
        challenges = _words(rounds);
    }

    /// @dev The combination of points, and of the generator, from the point at infinity.
    function combine(bytes calldata points, uint256[] calldata factors, uint256 ofGenerator)
        external
        view
        returns (bool ok, uint256 x, uint256 y)
    {
        reserve(END);
        assembly ("memory-safe") {
            calldatacopy(TO, factors.offset, shl(5, factors.length))
            mstore(0, ofGenerator)
        }
        ok = addMultiples(SCRATCH, _at(points), factors.length, TO) && addGenerator(SCRATCH, 0);
        assembly ("memory-safe") {
            x := mload(SCRATCH)
            y := mload(add(SCRATCH, 32))
        }
    }

    /// @dev With [s] = [1] the pairings are equal where the points are.
    function paired(uint256[2] calldata left, uint256[2] calldata right) external view returns (bool) {
        reserve(END);
        assembly ("memory-safe") {
            calldatacopy(TO, left, 64)
            calldatacopy(add(TO, 64), right, 64)
        }
        return pairingHolds(
            TO,
            TO + 64,
            SCRATCH,
            0x198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2,
            0x1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed,
            0x090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b,
            0x12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa
        );
    }

    function _at(bytes calldata data) private pure returns (uint256 place) {
        assembly ("memory-safe") {
            place := data.offset
        }
    }

    function _words(uint256 count) private pure returns (uint256[] memory words) {
        words = new uint256[](count);
        assembly ("memory-safe") {
            mcopy(add(words, 32), TO, shl(5, count))
        }
    }
}

contract NativeProofTest is Test {
    bytes32 private constant START = keccak256("zkserve/native/transcript/v1");
    Machine private machine = new Machine();

    // --- transcript

    function test_DrawsTheChallengesOfTheProtocolsExample() public view {
        bytes memory generator = abi.encode(1, 2);
        bytes memory message = bytes.concat(
            hex"42c66e4d09b582dfae1b0f2ee1c2766a1536f9bbaa7bcd36a3ff8da75770c18c",
            bytes32(0),
            hex"3333333333333333333333333333333333333333333333333333333333333333",
            hex"df92f97b6f30dcf990ae2ab3666cc746fb07253191bf508c74289378c4dda360",
            hex"e0daa367d972490ab7cf002ae49b0166c7aced04d0440ec1f4ad0bf386e83171",
            keccak256(hex"0a141e28"),
            keccak256(abi.encode(int256(76), int256(-77)))
        );
        uint256[] memory drawn = machine.draw(bytes.concat(message, generator, generator, generator), 2);
        vm.assertEq(drawn[0], 0x19e9fa74f3cdca368a8300b3e05dedadfa4bdcdb15b38f9d6914bea9af130679);
        vm.assertEq(drawn[1], 0x0435ab13f3dae6d670f6e5d49baefbb32186b9fa9600b86561941ad3989d00b8);
    }

    function testFuzz_DrawsOneAfterTheOther(bytes calldata message, uint256 count) public view {
        count = bound(count, 1, 13);
        vm.assume(message.length <= 1024);
        uint256[] memory drawn = machine.draw(message, count);
        bytes32 state = START;
        for (uint32 i = 0; i < count; ++i) {
            uint256 challenge;
            (state, challenge) = _step(state, i == 0 ? message : bytes(""), i);
            vm.assertEq(drawn[i], challenge);
        }
    }

    // --- rounds

    function testFuzz_MainRounds(uint256 seed, uint256 rounds) public view {
        rounds = bound(rounds, 2, 6);
        bytes memory messages = _scalars(seed, 5 * rounds + 5);
        (uint256 claim, bool ok, uint256[] memory challenges) = machine.first(messages, rounds);
        vm.assertTrue(ok);
        bytes32 state = START;
        uint256 expected = _word(messages, 0);
        uint256 place = 1;
        for (uint32 i = 0; i < rounds; ++i) {
            uint256 degree = i + 1 == rounds ? 9 : 5;
            uint256 from = i == 0 ? 0 : place;
            uint256 r;
            (state, r) = _step(state, _slice(messages, 32 * from, 32 * (place + degree - from)), i);
            expected = _round(messages, place, degree, expected, r);
            vm.assertEq(challenges[i], r);
            place += degree;
        }
        vm.assertEq(claim % P, expected);
    }

    function testFuzz_FinalRounds(uint256 seed, uint256 rounds, uint256 claim) public view {
        rounds = bound(rounds, 1, 5);
        claim = claim % P;
        bytes memory messages = _scalars(seed, 2 * rounds);
        (uint256 found, bool ok, uint256[] memory challenges) = machine.second(claim, messages, rounds);
        vm.assertTrue(ok);
        bytes32 state = START;
        for (uint32 i = 0; i < rounds; ++i) {
            uint256 r;
            (state, r) = _step(state, _slice(messages, 64 * i, 64), i);
            claim = _round(messages, 2 * i, 2, claim, r);
            vm.assertEq(challenges[i], r);
        }
        vm.assertEq(found % P, claim);
    }

    function testFuzz_RoundsRefuseWhatIsNotReduced(uint256 seed, uint256 place, uint256 excess) public view {
        bytes memory messages = _scalars(seed, 30);
        place = bound(place, 0, 29);
        excess = bound(excess, P, type(uint256).max);
        assembly ("memory-safe") {
            mstore(add(add(messages, 32), mul(32, place)), excess)
        }
        (, bool ok,) = machine.first(messages, 5);
        vm.assertFalse(ok);
        (, ok,) = machine.second(1, messages, 15);
        vm.assertFalse(ok);
    }

    // --- what is read

    function testFuzz_ScalarsAreReduced(uint256[7] memory words, uint256 count) public view {
        count = bound(count, 0, 7);
        bool expected = true;
        bytes memory data;
        for (uint256 i = 0; i < count; ++i) {
            if (words[i] % 3 > 0) words[i] = words[i] % (P + 2);
            expected = expected && words[i] < P;
            data = bytes.concat(data, bytes32(words[i]));
        }
        (bool ok, uint256[] memory copied) = machine.copyScalars(data);
        vm.assertEq(ok, expected);
        for (uint256 i = 0; i < count; ++i) {
            vm.assertEq(copied[i], words[i]);
        }
    }

    function testFuzz_MultipliersHave16Bits(uint32[3] memory m) public view {
        for (uint256 i = 0; i < 3; ++i) {
            if (m[i] % 4 > 0) m[i] = m[i] % 65540;
        }
        bool expected = true;
        for (uint256 i = 0; i < 3; ++i) {
            expected = expected && m[i] >= 1 && m[i] < 65536;
        }
        (bool ok, uint256[] memory words) = machine.copyMultipliers(abi.encodePacked(m[0], m[1], m[2]));
        vm.assertEq(ok, expected);
        vm.assertEq(words[1], m[1]);
    }

    function test_MultipliersAtTheirBounds() public view {
        uint32[4] memory bounds = [uint32(0), 1, 65535, 65536];
        for (uint256 i = 0; i < 4; ++i) {
            (bool ok,) = machine.copyMultipliers(abi.encodePacked(bounds[i]));
            vm.assertEq(ok, i == 1 || i == 2);
        }
    }

    function testFuzz_OutputsHave62Bits(int256 value) public view {
        int256[] memory outputs = new int256[](2);
        outputs[1] = value % 2 == 0 ? value : value % (2 ** 62 + 2);
        bool expected = outputs[1] < 2 ** 62 && outputs[1] > -(2 ** 62);
        vm.assertEq(machine.copyOutputs(outputs), expected);
    }

    function test_OutputsAtTheirBounds() public view {
        int256[] memory outputs = new int256[](1);
        int256[6] memory values =
            [int256(2 ** 62 - 1), 1 - 2 ** 62, 2 ** 62, -(2 ** 62), type(int256).max, type(int256).min];
        for (uint256 i = 0; i < 6; ++i) {
            outputs[0] = values[i];
            vm.assertEq(machine.copyOutputs(outputs), i < 2);
        }
    }

    function testFuzz_WeightsDigest(uint256[4] memory words, uint32[2] memory m) public view {
        for (uint256 i = 0; i < 4; ++i) {
            if (words[i] % 2 == 0) words[i] = 0;
        }
        bytes memory points = abi.encodePacked(words);
        (bytes32 digest, bool ok) = machine.weights(points, abi.encodePacked(m[0], m[1]));
        bytes memory hashed = bytes.concat(keccak256("zkserve/native/weights/v1"), bytes4(uint32(2)), points);
        vm.assertEq(digest, keccak256(abi.encodePacked(hashed, uint32(2), m[0], m[1])));
        vm.assertEq(ok, (words[0] | words[1]) != 0 && (words[2] | words[3]) != 0);
    }

    function testFuzz_InputDigest(uint256 x, uint256 y) public view {
        if (x % 2 == 0) x = 0;
        if (y % 2 == 0) y = 0;
        (bytes32 digest, bool ok) = machine.input(abi.encode(x, y));
        vm.assertEq(digest, keccak256(abi.encode(keccak256("zkserve/native/input/v1"), x, y)));
        vm.assertEq(ok, x != 0 || y != 0);
    }

    function testFuzz_InputSum(bytes calldata data, uint256 width, uint256 x) public view {
        width = width % 2 == 0 ? 16 : bound(width, 1, 16);
        x = x % P;
        uint256 count = data.length / width;
        uint256 expected;
        uint256 power = 1;
        for (uint256 t = 0; t < count; ++t) {
            uint256 word;
            for (uint256 i = 0; i < width; ++i) {
                word = word << 8 | uint8(data[width * t + i]);
            }
            expected = addmod(expected, mulmod(word, power, P), P);
            power = mulmod(power, x, P);
        }
        vm.assertEq(machine.sum(data[:width * count], width, x), expected);
    }

    function testFuzz_InputSumOfManyWords(uint256 seed, uint256 count) public view {
        bytes memory data = _slice(_scalars(seed, 40), 0, 16 * bound(count, 0, 80));
        this.testFuzz_InputSum(data, 16, seed);
    }

    function testFuzz_PowerSum(uint256 seed, uint256 base, uint256 count) public view {
        count = bound(count, 1, 9);
        base = base % P;
        bytes memory weighted = _scalars(seed, count);
        (uint256 total, uint256[] memory words) = machine.powers(base, weighted);
        uint256 power = mulmod(mulmod(mulmod(base, base, P), mulmod(base, base, P), P), base, P);
        uint256 expected;
        for (uint256 i = 0; i <= count; ++i) {
            vm.assertEq(words[i], power);
            if (i < count) expected = addmod(expected, mulmod(power, _word(weighted, i), P), P);
            power = mulmod(power, base, P);
        }
        vm.assertEq(total, expected);
    }

    // --- group

    function testFuzz_CombinesPoints(uint128 a, uint128 b, uint128 c, uint128 d, uint128 e) public view {
        bytes memory points = bytes.concat(_multiple(a), _multiple(b));
        uint256[] memory factors = new uint256[](2);
        (factors[0], factors[1]) = (uint256(c), uint256(d));
        (bool ok, uint256 x, uint256 y) = machine.combine(points, factors, e);
        vm.assertTrue(ok);
        uint256 expected = addmod(mulmod(a, c, P), mulmod(b, d, P), P);
        vm.assertEq(abi.encode(x, y), _multiple(addmod(expected, e, P)));
    }

    function test_RefusesWhatIsNoPointWhateverItsFactor() public view {
        uint256[2][4] memory bad = [[uint256(1), 3], [uint256(1), 2 + Q], [Q + 1, uint256(2)], [Q, Q]];
        uint256[] memory factors = new uint256[](1);
        for (uint256 i = 0; i < 4; ++i) {
            for (factors[0] = 0; factors[0] < 2; ++factors[0]) {
                (bool ok,,) = machine.combine{gas: 1_000_000}(abi.encode(bad[i]), factors, 1);
                vm.assertFalse(ok);
            }
        }
    }

    function testFuzz_PairingsAreEqualWherePointsAre(uint256 a, uint256 b) public view {
        uint256[2] memory left = abi.decode(_multiple(a), (uint256[2]));
        uint256[2] memory right = abi.decode(_multiple(b), (uint256[2]));
        vm.assertTrue(machine.paired(left, left));
        vm.assertEq(machine.paired(left, right), a % P == b % P);
    }

    function test_PairingOfInfinityAndOfWhatIsNoPoint() public view {
        uint256[2] memory none;
        vm.assertTrue(machine.paired(none, none));
        vm.assertFalse(machine.paired([uint256(1), 2], none));
        vm.assertFalse(machine.paired{gas: 1_000_000}([uint256(1), 3], [uint256(1), 3]));
    }

    // --- the reference

    function _step(bytes32 state, bytes memory message, uint32 counter)
        private
        pure
        returns (bytes32 next, uint256 challenge)
    {
        next = keccak256(abi.encodePacked(state, message, counter));
        challenge = uint256(keccak256(abi.encodePacked(hex"63", next))) % P;
    }

    /// @dev The value at `r` of the polynomial of which all coefficients but the linear one are sent.
    function _round(bytes memory messages, uint256 place, uint256 degree, uint256 claim, uint256 r)
        private
        pure
        returns (uint256 value)
    {
        uint256 linear = addmod(claim, P - _word(messages, place), P);
        for (uint256 i = 0; i < degree; ++i) {
            linear = addmod(linear, P - _word(messages, place + i), P);
        }
        value = addmod(_word(messages, place), mulmod(linear, r, P), P);
        uint256 power = r;
        for (uint256 i = 1; i < degree; ++i) {
            power = mulmod(power, r, P);
            value = addmod(value, mulmod(_word(messages, place + i), power, P), P);
        }
    }

    function _multiple(uint256 factor) private view returns (bytes memory point) {
        bool ok;
        (ok, point) = address(7).staticcall(abi.encode(1, 2, factor));
        vm.assertTrue(ok);
    }

    function _scalars(uint256 seed, uint256 count) private pure returns (bytes memory data) {
        data = new bytes(32 * count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 scalar = uint256(keccak256(abi.encode(seed, i))) % P;
            if (scalar % 8 == 0) scalar = P - 1;
            assembly ("memory-safe") {
                mstore(add(add(data, 32), mul(32, i)), scalar)
            }
        }
    }

    function _word(bytes memory data, uint256 index) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), mul(32, index)))
        }
    }

    function _slice(bytes memory data, uint256 place, uint256 size) private pure returns (bytes memory part) {
        part = new bytes(size);
        for (uint256 i = 0; i < size; ++i) {
            part[i] = data[place + i];
        }
    }
}
