// A program that makes the calls of DJL's MXNet engine, in its order, through JNA as DJL does:
// Client WAY MODEL.json MODEL.params OUT THREADS
// WAY is a list: "predict" asks on one thread, "threads" on several that share one CachedOp
// ("turns": one after another), "reload" sets other parameters, "exit" leaves from a thread while
// others ask.  What they compute is appended to OUT.
import com.sun.jna.Function;
import com.sun.jna.Library;
import com.sun.jna.Memory;
import com.sun.jna.Native;
import com.sun.jna.NativeLibrary;
import com.sun.jna.Pointer;
import com.sun.jna.ptr.IntByReference;
import com.sun.jna.ptr.PointerByReference;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;

public final class Client {
    // C's size_t is a long here.
    interface Mxnet extends Library {
        String MXGetLastError();

        int MXGetVersion(IntByReference version);

        int MXListAllOpNames(IntByReference number, PointerByReference names);

        int NNGetOpHandle(String name, PointerByReference op);

        int MXSymbolGetAtomicSymbolInfo(
                Pointer op, PointerByReference name, PointerByReference description,
                IntByReference number, PointerByReference names, PointerByReference types,
                PointerByReference descriptions, PointerByReference variable,
                PointerByReference returned);

        int MXLibInfoFeatures(PointerByReference features, PointerByReference number);

        int MXSetIsNumpyShape(int mode, IntByReference before);

        int MXSymbolCreateFromFile(String path, PointerByReference symbol);

        int MXSymbolCreateFromJSON(String json, PointerByReference symbol);

        int MXSymbolSaveToJSON(Pointer symbol, PointerByReference json);

        int NNSymbolListInputNames(
                Pointer symbol, int option, IntByReference number, PointerByReference names);

        int MXSymbolListArguments(
                Pointer symbol, IntByReference number, PointerByReference names);

        int MXSymbolListAuxiliaryStates(
                Pointer symbol, IntByReference number, PointerByReference names);

        int MXSymbolListOutputs(Pointer symbol, IntByReference number, PointerByReference names);

        int MXSymbolFree(Pointer symbol);

        int MXNDArrayCreateEx64(
                long[] shape, int ndim, int deviceType, int deviceId, int delay, int dtype,
                PointerByReference array);

        int MXNDArrayLoad(
                String path, IntByReference number, PointerByReference arrays,
                IntByReference numNames, PointerByReference names);

        int MXNDArrayGetShapeEx64(Pointer array, IntByReference ndim, PointerByReference shape);

        int MXNDArrayGetDType(Pointer array, IntByReference dtype);

        int MXNDArrayGetContext(Pointer array, IntByReference type, IntByReference id);

        int MXNDArrayGetStorageType(Pointer array, IntByReference type);

        int MXNDArraySyncCopyFromCPU(Pointer array, Pointer data, long size);

        int MXNDArraySyncCopyToCPU(Pointer array, Pointer data, long size);

        int MXNDArrayWaitToRead(Pointer array);

        int MXNDArrayFree(Pointer array);

        int MXNDArrayWaitAll();

        int MXAutogradSetIsRecording(int is, IntByReference before);

        int MXAutogradSetIsTraining(int is, IntByReference before);

        int MXCreateCachedOpEx(
                Pointer symbol, int number, String[] keys, String[] values,
                PointerByReference op);

        int MXInvokeCachedOpEx(
                Pointer op, int numInputs, Pointer inputs, IntByReference numOutputs,
                PointerByReference outputs, PointerByReference stypes);

        int MXFreeCachedOp(Pointer op);
    }

    private static final int LAZY_AND_LOCAL = 1;
    private static final int[] BATCHES = {2, 2, 5, 2, 5, 3};

    private static final Mxnet LIB =
            Native.load(
                    libraryName(), Mxnet.class, Map.of(Library.OPTION_OPEN_FLAGS, LAZY_AND_LOCAL));

    // The engine as DJL starts it.
    private static void startEngine() {
        for (String name : allOpNames()) {
            PointerByReference op = new PointerByReference();
            check(LIB.NNGetOpHandle(name, op));
            PointerByReference[] told = new PointerByReference[7];
            Arrays.setAll(told, i -> new PointerByReference());
            check(
                    LIB.MXSymbolGetAtomicSymbolInfo(
                            op.getValue(), told[0], told[1], new IntByReference(), told[2],
                            told[3], told[4], told[5], told[6]));
        }
        check(LIB.MXLibInfoFeatures(new PointerByReference(), new PointerByReference()));
        check(LIB.MXSetIsNumpyShape(2, new IntByReference())); // for all threads
        Runtime.getRuntime().addShutdownHook(new Thread(() -> check(LIB.MXNDArrayWaitAll())));
        IntByReference version = new IntByReference();
        check(LIB.MXGetVersion(version));
        if (version.getValue() / 100 != 109) throw new IllegalStateException("not MXNet 1.9");
    }

    private static String libraryName() {
        for (String key : new String[] {"MXNET_LIBRARY_PATH", "java.library.path"}) {
            String paths = key.startsWith("j") ? System.getProperty(key) : System.getenv(key);
            if (paths == null) continue;
            for (String path : paths.split(File.pathSeparator)) {
                File file = new File(path);
                if (file.isFile() && file.getName().endsWith("libmxnet.so")) {
                    return file.getAbsolutePath();
                }
                file = new File(path, "libmxnet.so");
                if (file.isFile()) return file.getAbsolutePath();
            }
        }
        throw new IllegalStateException("MXNET_LIBRARY_PATH has no libmxnet.so");
    }

    private static void check(int code) {
        if (code != 0) throw new IllegalStateException("failed: " + LIB.MXGetLastError());
    }

    private interface Listing {
        int list(IntByReference number, PointerByReference names);
    }

    private static List<String> names(Listing listing) {
        IntByReference number = new IntByReference();
        PointerByReference names = new PointerByReference();
        check(listing.list(number, names));
        if (number.getValue() == 0) return List.of();
        return List.of(names.getValue().getStringArray(0, number.getValue(), "UTF-8"));
    }

    private static List<String> allOpNames() {
        return names(LIB::MXListAllOpNames);
    }

    private static long[] shapeOf(Pointer array) {
        IntByReference ndim = new IntByReference();
        PointerByReference shape = new PointerByReference();
        check(LIB.MXNDArrayGetShapeEx64(array, ndim, shape));
        return ndim.getValue() == 0
                ? new long[0]
                : shape.getValue().getLongArray(0, ndim.getValue());
    }

    private static int sizeOf(Pointer array) {
        return (int) Arrays.stream(shapeOf(array)).reduce(1, (a, b) -> a * b);
    }

    private static FloatBuffer direct(int size) {
        return ByteBuffer.allocateDirect(4 * size).order(ByteOrder.nativeOrder()).asFloatBuffer();
    }

    private static FloatBuffer toBuffer(Pointer array) {
        IntByReference told = new IntByReference();
        check(LIB.MXNDArrayGetStorageType(array, told));
        if (told.getValue() != 0) throw new IllegalStateException("a sparse array");
        check(LIB.MXNDArrayGetDType(array, told));
        if (told.getValue() != 0) throw new IllegalStateException("not float32");
        FloatBuffer values = direct(sizeOf(array));
        check(
                LIB.MXNDArraySyncCopyToCPU(
                        array, Native.getDirectBufferPointer(values), values.capacity()));
        return values;
    }

    private static void set(Pointer array, FloatBuffer values) {
        check(
                LIB.MXNDArraySyncCopyFromCPU(
                        array, Native.getDirectBufferPointer(values), values.capacity()));
    }

    private static Pointer create(long[] shape) {
        PointerByReference array = new PointerByReference();
        check(LIB.MXNDArrayCreateEx64(shape, shape.length, 1, 0, 0, 0, array));
        return array.getValue();
    }

    private static Pointer picture(long batch, float offset) {
        Pointer array = create(new long[] {batch, 3, 16, 16});
        FloatBuffer values = direct((int) batch * 3 * 16 * 16);
        for (int i = 0; i < values.capacity(); ++i) values.put(i, i % 37 / 37f - 0.5f + offset);
        set(array, values);
        return array;
    }

    private static void closeArray(Pointer array) {
        check(LIB.MXNDArrayWaitToRead(array));
        check(LIB.MXNDArrayFree(array));
    }

    // DJL's MxSymbolBlock and its CachedOp.
    private static final class Block {
        private final Pointer symbol;
        private final List<String> inputs;
        private final Map<String, Pointer> parameters = new HashMap<>();
        private volatile boolean first = true;
        private Pointer op;

        Block(String json, String file) {
            PointerByReference ref = new PointerByReference();
            check(LIB.MXSymbolCreateFromFile(json, ref));
            symbol = ref.getValue();
            inputs = names((n, p) -> LIB.NNSymbolListInputNames(symbol, 0, n, p));
            Set<String> both =
                    new HashSet<>(names((n, p) -> LIB.MXSymbolListArguments(symbol, n, p)));
            both.addAll(names((n, p) -> LIB.MXSymbolListAuxiliaryStates(symbol, n, p)));
            if (!both.equals(new HashSet<>(inputs))) throw new IllegalStateException("lists");
            check(LIB.MXSymbolSaveToJSON(symbol, ref));
            PointerByReference again = new PointerByReference();
            check(LIB.MXSymbolCreateFromJSON(ref.getValue().getString(0), again));
            check(LIB.MXSymbolFree(again.getValue()));
            load(file);
        }

        void load(String file) {
            IntByReference number = new IntByReference();
            IntByReference numNames = new IntByReference();
            PointerByReference arrays = new PointerByReference();
            PointerByReference names = new PointerByReference();
            check(LIB.MXNDArrayLoad(file, number, arrays, numNames, names));
            Pointer[] handles = arrays.getValue().getPointerArray(0, number.getValue());
            String[] keys = names.getValue().getStringArray(0, numNames.getValue());
            for (int i = 0; i < keys.length; ++i) {
                parameters.put(keys[i].split(":", 2)[1], handles[i]);
            }
        }

        private void createCachedOp() {
            List<Integer> data = new ArrayList<>();
            List<Integer> weights = new ArrayList<>();
            for (int i = 0; i < inputs.size(); ++i) {
                (parameters.containsKey(inputs.get(i)) ? weights : data).add(i);
            }
            String[] keys = {"data_indices", "param_indices", "static_alloc", "static_shape"};
            String[] values = {
                data.toString(), weights.toString(), flag("static_alloc"), flag("static_shape")
            };
            PointerByReference ref = new PointerByReference();
            check(LIB.MXCreateCachedOpEx(symbol, keys.length, keys, values, ref));
            op = ref.getValue();
        }

        private static String flag(String name) {
            return Boolean.parseBoolean(System.getProperty("ai.djl.mxnet." + name, "true"))
                    ? "1"
                    : "0";
        }

        Pointer[] forward(Pointer data) {
            if (first) {
                synchronized (this) {
                    if (first) {
                        createCachedOp();
                        Pointer[] outputs = invoke(data);
                        names((n, p) -> LIB.MXSymbolListOutputs(symbol, n, p));
                        for (Pointer output : outputs) shapeOf(output);
                        first = false;
                        return outputs;
                    }
                }
            }
            return invoke(data);
        }

        private Pointer[] invoke(Pointer data) {
            Memory given = new Memory(8L * (inputs.size() + 1));
            for (int i = 0; i < inputs.size(); ++i) {
                given.setPointer(8L * i, parameters.getOrDefault(inputs.get(i), data));
            }
            given.setPointer(8L * inputs.size(), null);
            IntByReference number = new IntByReference();
            PointerByReference outputs = new PointerByReference();
            PointerByReference stypes = new PointerByReference();
            check(LIB.MXInvokeCachedOpEx(op, inputs.size(), given, number, outputs, stypes));
            Pointer[] made = outputs.getValue().getPointerArray(0, number.getValue());
            for (int type : stypes.getValue().getIntArray(0, made.length)) {
                if (type != 0) throw new IllegalStateException("a sparse output");
            }
            return made;
        }

        // A Predictor's request.
        void predict(long batch, float offset, List<FloatBuffer> into) {
            Pointer data = picture(batch, offset);
            IntByReference type = new IntByReference();
            check(LIB.MXNDArrayGetContext(data, type, new IntByReference()));
            if (type.getValue() != 1) throw new IllegalStateException("not on the CPU");
            for (Pointer output : forward(data)) {
                if (shapeOf(output)[0] != batch) throw new IllegalStateException("batch");
                into.add(toBuffer(output));
                closeArray(output);
            }
            closeArray(data);
        }

        void scale(String name, float factor) {
            Pointer array = parameters.get(name);
            FloatBuffer values = toBuffer(array);
            for (int i = 0; i < values.capacity(); ++i) values.put(i, values.get(i) * factor);
            set(array, values);
        }

        // Another array, which gets the handle that was freed.
        void replace(String name, float factor) {
            Pointer array = parameters.get(name);
            long[] shape = shapeOf(array);
            FloatBuffer values = toBuffer(array);
            for (int i = 0; i < values.capacity(); ++i) values.put(i, values.get(i) * factor);
            closeArray(array);
            List<Pointer> made = new ArrayList<>();
            do made.add(create(shape)); while (made.size() < 1000 && !made.contains(array));
            Pointer last = made.remove(made.size() - 1);
            made.forEach(Client::closeArray);
            parameters.put(name, last);
            set(last, values);
            System.err.println(array.equals(last) ? "the same handle" : "another handle");
        }

        void closeParameters() {
            parameters.values().forEach(Client::closeArray);
        }

        // In no order, as DJL's managers close.
        void close() {
            check(LIB.MXNDArrayWaitAll());
            check(LIB.MXSymbolFree(symbol));
            closeParameters();
            check(LIB.MXFreeCachedOp(op));
        }
    }

    private static String lastOf(Block block, String ending) {
        return block.inputs.stream().filter(n -> n.endsWith(ending)).reduce((a, b) -> b).get();
    }

    private static void predict(Block block, List<FloatBuffer> answers) {
        for (int i = 0; i < BATCHES.length; ++i) block.predict(BATCHES[i], 0.1f * i, answers);
        provoke();
        for (String ending : new String[] {"weight", "bias"}) {
            block.scale(lastOf(block, ending), 3);
            for (int i = 0; i < BATCHES.length; ++i) block.predict(BATCHES[i], 0.1f * i, answers);
            provoke();
        }
        // DJL's GradientCollector: MXNet's operators answer.
        check(LIB.MXAutogradSetIsRecording(1, new IntByReference()));
        check(LIB.MXAutogradSetIsTraining(1, new IntByReference()));
        block.predict(2, 0, answers);
        check(LIB.MXAutogradSetIsRecording(0, new IntByReference()));
        check(LIB.MXAutogradSetIsTraining(0, new IntByReference()));
        for (int i = 0; i < BATCHES.length; ++i) block.predict(BATCHES[i], 0.1f * i, answers);
    }

    private static void reload(Block block, String file, List<FloatBuffer> answers) {
        for (int round = 1; round < 4; ++round) {
            block.replace(lastOf(block, "weight"), -1);
            for (int i = 0; i < BATCHES.length; ++i) block.predict(BATCHES[i], 0.1f * i, answers);
        }
        for (int round = 1; round < 4; ++round) {
            block.closeParameters();
            block.load(file);
            block.scale(lastOf(block, "weight"), 1 + round);
            for (int i = 0; i < BATCHES.length; ++i) block.predict(BATCHES[i], 0.1f * i, answers);
        }
    }

    private static void share(Block block, int number, boolean turns, List<FloatBuffer> answers)
            throws InterruptedException {
        List<List<FloatBuffer>> made = new ArrayList<>();
        List<Thread> threads = new ArrayList<>();
        for (int t = 0; t < number; ++t) {
            List<FloatBuffer> own = new ArrayList<>();
            int place = t;
            made.add(own);
            Thread thread =
                    new Thread(
                            () -> {
                                for (int i = 0; i < 40; ++i) {
                                    int batch = BATCHES[(place + i) % BATCHES.length];
                                    block.predict(batch, 0.1f * place + 0.01f * i, own);
                                    if (i % 16 == 0) provoke();
                                }
                            });
            threads.add(thread);
            thread.start();
            if (turns) thread.join();
        }
        for (Thread thread : threads) thread.join();
        made.forEach(answers::addAll);
    }

    // The handlers of all signals and their flags, where x86-64 has them in C's structure.
    private static List<Long> handlers() {
        List<Long> found = new ArrayList<>();
        Memory action = new Memory(152);
        for (int signal = 1; signal < 32; ++signal) {
            action.clear();
            Function.getFunction("c", "sigaction").invokeInt(new Object[] {signal, null, action});
            found.add(action.getLong(0));
            found.add((long) action.getInt(136));
        }
        return found;
    }

    // Collects garbage, and has the JVM's handler of SIGSEGV make exceptions of null pointers.
    private static void provoke() {
        System.gc();
        int caught = 0;
        for (int i = 0; i < 100; ++i) {
            try {
                caught += nothing(i).length;
            } catch (NullPointerException expected) {
                ++caught;
            }
        }
        if (caught != 100) throw new IllegalStateException("null pointers were passed over");
    }

    private static int[] nothing(int number) {
        return number < 0 ? new int[1] : null;
    }

    // How often engines ran, on standard error.
    private static void tellRuns() throws IOException {
        long[] tally = new long[5];
        String node = System.getenv("NODE");
        if (Files.readString(Path.of("/proc/self/maps")).contains(node)) {
            Function told = NativeLibrary.getInstance(node).getFunction("mxtrt_tally");
            told.invokeVoid(new Object[] {tally});
        }
        System.err.println("runs " + tally[0]);
    }

    private static void write(String path, List<FloatBuffer> answers) throws IOException {
        try (FileOutputStream out = new FileOutputStream(path)) {
            for (FloatBuffer one : answers) {
                ByteBuffer bytes = ByteBuffer.allocate(4 * one.capacity());
                bytes.order(ByteOrder.nativeOrder()).asFloatBuffer().put(one.duplicate());
                out.write(bytes.array());
            }
        }
    }

    public static void main(String[] args) throws Exception {
        List<String> way = Arrays.asList(args[0].split(","));
        // What nobody catches ends the program.
        Thread.setDefaultUncaughtExceptionHandler(
                (thread, error) -> {
                    error.printStackTrace();
                    Runtime.getRuntime().halt(4);
                });
        startEngine();
        List<Long> handlers = handlers();
        Block block = new Block(args[1], args[2]);
        List<FloatBuffer> answers = new ArrayList<>();
        if (way.contains("predict")) predict(block, answers);
        if (way.contains("threads")) {
            share(block, Integer.parseInt(args[4]), way.contains("turns"), answers);
        }
        if (way.contains("reload")) reload(block, args[2], answers);
        provoke();
        if (!handlers.equals(handlers())) throw new IllegalStateException("other signal handlers");
        write(args[3], answers);
        tellRuns();
        if (way.contains("exit")) {
            CountDownLatch latch = new CountDownLatch(2);
            for (int t = 0; t < 2; ++t) {
                Thread asks =
                        new Thread(
                                () -> {
                                    for (int i = 0; ; ++i) {
                                        block.predict(2, 0, new ArrayList<>());
                                        if (i == 5) latch.countDown();
                                    }
                                });
                asks.setDaemon(true);
                asks.start();
            }
            latch.await();
            Thread leaves = new Thread(() -> System.exit(0));
            leaves.start();
            leaves.join();
        }
        block.close();
    }
}
